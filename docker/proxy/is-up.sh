#!/bin/bash
# Requests the proxy's health endpoint through bash, because the image has no HTTP client.
exec 3<> /dev/tcp/127.0.0.1/8001 && printf 'GET /up HTTP/1.0\r\n\r\n' >&3 && read -r _ status _ <&3 && [ "$status" = 200 ]

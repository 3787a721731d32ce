"""Prometheus metrics and OpenTelemetry traces of the API processes.

`instruments` has the counters and histograms that other packages use, `observer` measures every request, `multiprocess`
adds up several processes of a host, `api` serves `/metrics`. Imports nothing above `logs`. Begin with `instruments`.
"""

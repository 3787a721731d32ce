"""`palate demo`: a synthetic data set, and a walk through the public API of a service in a child process.

Start reading at `run.py`. `service_process` also starts services for benchmarks and tests. Only `cli` imports this
package.
"""

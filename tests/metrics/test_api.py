import httpx

from tests.metrics.samples import samples


def test_metrics_are_those_of_the_processes_and_of_the_database(sqlite_client: httpx.Client) -> None:
    assert sqlite_client.get("/metrics").headers["content-type"].startswith("text/plain")
    values = samples(sqlite_client)
    assert values["palate_ratings"] == 0
    assert "process_resident_memory_bytes" in values

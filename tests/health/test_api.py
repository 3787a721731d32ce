import httpx


def test_a_process_is_alive_and_ready_when_the_database_answers(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"is_ready": True, "database": True, "kernels": True}


def test_the_status_counts_ratings_and_says_which_version_is_served(client: httpx.Client) -> None:
    for user_id, value in (("ann", 4.0), ("bob", 3.0)):
        rating = {"user_id": user_id, "item_id": "dune", "value": value}
        client.post("/v1/ratings", json=rating).raise_for_status()
    status = client.get("/v1/status").json()
    assert (status["n_ratings"], status["n_users"], status["n_items"]) == (2, 2, 1)
    assert status["changes_since_training"] == 2
    assert (status["model_version"], status["training_run"], status["problem"]) == (None, None, None)

"""Ways to fit a factor model; all of them keep the `Trainer` protocol of `app.engine.trainers.base`."""

"""The numerical engine: ratings in, factors out. Pure: arrays and numbers only, no HTTP, no database, no settings."""

"""Predicted ratings, lists of recommendations, similar and popular items, by the ratings that are stored right now.

A request is answered on the event loop if that takes about a millisecond: with SQLite, when the model and the catalog
are in memory and no limit of `dispatch` is exceeded. Otherwise a handler raises `WouldBlockEventLoop`, and `dispatch`
calls it again in a thread. Either way it is a plain function of a `RequestContext` in `lists`, `predictions` or
`item_lists`. Begin with `api`, then `dispatch`. Only `main`, `cli` and `health` may import this package.
"""

"""The dashboard: a page at `/` with its files; it uses only the public API."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from app.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: path for path in _FOLDER.iterdir() if path.suffix in _MEDIA_TYPES}

# Titles and ids are untrusted: even if one were inserted as markup, nothing in it could load or run.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # revalidated by ETag, so that an upgrade shows at once
}


class UnknownFile(NotFound):
    def __init__(self, name: str) -> None:
        super().__init__(f"the dashboard has no file {name!r}")


@router.get("/")
def show_dashboard() -> FileResponse:
    return read_dashboard_file("index.html")


@router.get("/dashboard/{name}")
def read_dashboard_file(name: str) -> FileResponse:
    if name not in _FILES:
        raise UnknownFile(name)
    path = _FILES[name]
    return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=_HEADERS)

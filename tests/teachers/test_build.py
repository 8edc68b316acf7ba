"""Teachers built from their sections: what users write in several ways means one thing."""

import pytest

from understudy.teachers.api.teacher import without_repeat


@pytest.mark.parametrize(
    ("url", "path", "base"),
    [
        ("http://127.0.0.1:8000", "/v1/videos", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "/v1/videos", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1/videos/", "/v1/videos", "http://127.0.0.1:8000"),
        ("https://example.org/gateway/v1/", "/v1/videos", "https://example.org/gateway"),
        ("https://example.org/api", "/api/v1/videos", "https://example.org"),
        ("https://example.org/v12", "/v1/videos", "https://example.org/v12"),
        ("https://example.org", "/{model}", "https://example.org"),
    ],
)
def test_a_base_address_is_written_with_its_version_or_without(url: str, path: str, base: str) -> None:
    assert without_repeat(url, path) == base

"""Files outside docs/ that its pages link to become part of the site, under files/; links are turned to them."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)((?:#[^)\s]*)?\))")


def _path(where: str, target: str) -> str:
    """Return what a link in the file ``where`` of the repository points to, from its root."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(where), target))


def _home(path: str) -> str:
    """Return where a file of the repository is in the site's sources."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    folder, name = posixpath.split(path)
    return posixpath.join("files", folder, "readme.md" if name == "README.md" else name)  # README.md would be an index


def _links(path: str) -> list[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return [_path(path, match[2]) for match in LINK.finditer(text)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add every file that a page links to, and what those link to."""
    waiting = [f"docs/{file.src_uri}" for file in files if file.src_uri.endswith(".md")]
    seen = set(waiting)
    while waiting:
        for path in _links(waiting.pop()):
            whole = ROOT / path
            if path in seen or path.startswith("..") or not whole.exists():
                continue  # a broken link is left as it is, so that strict mode finds it
            seen.add(path)
            if whole.is_dir():
                listed = "\n".join(f"- [{one.name}]({one.name})" for one in sorted(whole.iterdir()) if one.is_file())
                page = File.generated(
                    config, posixpath.join("files", path, "index.md"), content=f"# {path}\n\n{listed}\n"
                )
                files.append(page)
                for one in (one for one in whole.iterdir() if one.is_file()):
                    if (name := f"{path}/{one.name}") not in seen:
                        seen.add(name)
                        files.append(File.generated(config, _home(name), abs_src_path=str(one)))
            elif not path.startswith("docs/"):
                files.append(File.generated(config, _home(path), abs_src_path=str(whole)))
                if path.endswith(".md"):
                    waiting.append(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links that leave docs/ to where the files are in the site."""
    uri = page.file.src_uri
    here = uri.removeprefix("files/") if uri.startswith("files/") else f"docs/{uri}"
    if here.endswith("readme.md") and not (ROOT / here).is_file():
        here = here.removesuffix("readme.md") + "README.md"

    def turned(match: re.Match[str]) -> str:
        path = _path(here, match[2])
        home = posixpath.join(_home(path), "index.md") if (ROOT / path).is_dir() else _home(path)
        if files.get_file_from_path(home) is None:
            return match[0]
        return f"{match[1]}{posixpath.relpath(home, posixpath.dirname(uri) or '.')}{match[3]}"

    return LINK.sub(turned, markdown)

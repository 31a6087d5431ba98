"""MkDocs hooks: pages from outside docs/, links to sources, the API references, and the version selector."""

from __future__ import annotations

import json
import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))
import kdoc
import symbolgraph

ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "target" / "docs"
TOOLS = ROOT / "scripts" / "docs" / "node_modules"
#: Scripts of the site, from locked npm packages: name, path.
SCRIPTS = {"mermaid.min.js": "mermaid/dist/mermaid.min.js", "iframe-worker.js": "iframe-worker/shim/index.js"}
SOURCE = "https://github.com/actpass/actpass/blob/main"

#: Pages from outside docs/: path in the repository, path in the site.
PAGES = {
    "bindings-python/README.md": "packages/python.md",
    "bindings-node/README.md": "packages/node.md",
    "bindings-swift/README.md": "packages/swift.md",
    "bindings-kotlin/README.md": "packages/kotlin.md",
    "gateway/README.md": "gateway.md",
    "mcp/README.md": "packages/mcp.md",
    "hook/README.md": "packages/hook.md",
    "tests/vectors/README.md": "vectors.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "RELEASING.md": "releasing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
}
FENCE = re.compile(r"^ *(```|~~~)")
LINK = re.compile(r"(\]\(|^\[[^\]]+\]: +)([^)\s]+)", re.MULTILINE)
ITEM = re.compile(r" {0,3}([-*]|\d+\.) ")
#: A link to a program that a guide shows.
PROGRAM = re.compile(r"\]\([^)\s]*\b(examples/(?:python|node)/[\w-]+\.(?:py|mjs))\)")


def on_config(config: Any) -> Any:
    """Require that the site's folder is the version of the packages."""
    version = re.search(r'^version = "(\d+\.\d+)', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE)
    folder = Path(config["site_dir"]).name
    if version is None or version[1] != folder:
        raise PluginError(f"mkdocs.yml: expected site_dir target/site/{version and version[1]}, found {folder}")
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/ and the generated references."""
    for source, target in PAGES.items():
        if (ROOT / source).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    require_modules()
    for path in sorted((BUILT / "typescript").rglob("*.md")):
        # Python-Markdown has no escape for this character.
        text = path.read_text(encoding="utf-8").replace("\\<", "&lt;")
        if path.name == "overview.md":
            text = text.replace("# @actpass/sdk\n", "# TypeScript API\n", 1)
        files.append(File.generated(config, f"reference/{path.relative_to(BUILT).as_posix()}", content=text))
    kotlin = ROOT / "bindings-kotlin" / "src" / "main"
    page = kdoc.page(kotlin)
    require_types(page, kotlin, "*.kt", r"^public (?:\w+ )*(?:class|interface|object) (\w+)")
    files.append(File.generated(config, "reference/kotlin.md", content=page))
    page = symbolgraph.page(BUILT / "symbols")
    if (BUILT / "symbols" / "ActPass.symbols.json").is_file():
        require_types(page, ROOT / "bindings-swift" / "Sources" / "ActPass", "*.swift", r"^public (?:final )?(?:struct|class|enum|protocol|actor) (\w+)")
    files.append(File.generated(config, "reference/swift.md", content=page))
    for name, path in SCRIPTS.items():
        files.append(File.generated(config, f"assets/{name}", abs_src_path=str(TOOLS / path)))
    return files


def require_modules() -> None:
    """Fail if the TypeScript reference lacks a module that the Node package exports."""
    package = json.loads((ROOT / "bindings-node" / "package.json").read_text(encoding="utf-8"))
    exported = {package["name"] + name.removeprefix(".") for name in package["exports"] if not name.endswith(".json")}
    pages = (BUILT / "typescript" / "modules").glob("*.md")
    found = {path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in pages}
    if exported != found:
        raise PluginError(f"scripts/docs/typedoc.json: expected the modules {sorted(exported)}, found {sorted(found)}")


def require_types(page: str, folder: Path, glob: str, declaration: str) -> None:
    """Fail if a public top-level type of the sources has no section."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.rglob(glob)))
    missing = [name for name in re.findall(declaration, text, re.MULTILINE) if not re.search(rf"^## {name}$", page, re.MULTILINE)]
    if missing:
        raise PluginError(f"the reference of {folder.relative_to(ROOT)} lacks {', '.join(missing)}")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links that leave the site, and separate lists from paragraphs, which Python-Markdown requires."""
    path = Path(page.file.abs_src_path).resolve() if page.file.abs_src_path else None
    source = path.relative_to(ROOT).as_posix() if path and path.is_relative_to(ROOT) and "target" not in path.parts else None
    parts = []
    fenced = False
    previous = ""
    for line in markdown.split("\n"):
        if FENCE.match(line):
            fenced = not fenced
        elif not fenced and source:
            line = LINK.sub(lambda match: match[1] + target(match[2], source, page.file.src_uri), line)
            if ITEM.match(line) and previous.strip() and not ITEM.match(previous) and not previous.startswith((" ", "|")):
                parts.append("")
        parts.append(line)
        previous = line
    if source and source.startswith("docs/how-to/"):
        parts += [program(path) for path in dict.fromkeys(PROGRAM.findall(markdown))]
    return "\n".join(parts)


def program(path: str) -> str:
    """Return a collapsed block with the source of an example."""
    file = ROOT / path
    if not file.is_file():
        raise PluginError(f"no example {path}")
    language = {".py": "python", ".mjs": "js"}[file.suffix]
    lines = [f"```{language}", *file.read_text(encoding="utf-8").rstrip().split("\n"), "```"]
    return "\n".join([f'\n??? example "{path}"', "", *(f"    {line}".rstrip() for line in lines)])


def target(link: str, source: str, page: str) -> str:
    """Return the link as the site needs it: to a page of the site, or to a file of the repository."""
    path, hash_, anchor = link.partition("#")
    if not path or re.match(r"\w+:", link):
        return link
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    if not (ROOT / named).exists():
        raise PluginError(f"{source}: broken link {link}")
    inside = PAGES.get(named) or PAGES.get(f"{named}/README.md")
    if inside is None and named.startswith("docs/"):
        inside = named.removeprefix("docs/")
        inside += "/README.md" if (ROOT / named).is_dir() else ""
    if inside is None:
        kind = SOURCE.replace("/blob/", "/tree/") if (ROOT / named).is_dir() else SOURCE
        return f"{kind}/{named}{hash_}{anchor}"
    return posixpath.relpath(inside, posixpath.dirname(page)) + hash_ + anchor


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Load the script that the offline plugin needs from the site itself."""
    local = posixpath.relpath("assets/iframe-worker.js", posixpath.dirname(page.url) or ".")
    return output.replace("https://unpkg.com/iframe-worker/shim", local)


def on_post_build(config: Any) -> None:
    """Copy the reference of Rust, and write the list of versions that the selector reads."""
    site = Path(config["site_dir"])
    # It has absolute paths; the web server has an error page for all versions.
    (site / "404.html").unlink()
    rust = ROOT / "target" / "doc"
    for crate in ("actpass_core", "actpass_protocol", "actpass_session"):
        if not (rust / crate / "index.html").is_file():
            raise PluginError(f"{rust / crate} is missing: run scripts/build-docs")
    shutil.copytree(rust, site / "reference" / "rust", dirs_exist_ok=True, ignore=shutil.ignore_patterns("src", ".lock"))
    found = [path.name for path in site.parent.iterdir() if (path / "index.html").is_file() and not path.is_symlink()]
    versions = sorted(found, key=lambda name: [int(part) for part in name.split(".")], reverse=True)
    latest = versions[0]
    listed = [{"version": name, "title": name, "aliases": ["latest"] if name == latest else []} for name in versions]
    (site.parent / "versions.json").write_text(json.dumps(listed, indent=2) + "\n")
    (site.parent / "index.html").write_text(f'<!doctype html><meta http-equiv="refresh" content="0; url={latest}/index.html"><a href="{latest}/index.html">{latest}</a>\n')

"""The environments of the Node package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from harness import EXPECTED, ROOT, SOURCES, TARGET, Box, Environment, FailedError, once

NODE = SOURCES / "node"
TOOLS = TARGET / "node"
PLATFORM = "linux-x64-gnu"
ADDON = f"actpass.{PLATFORM}.node"
PUBLISHED = ("sdk", PLATFORM)

#: Parts of the error if the bundle lacks the binary.
NOT_BUNDLED = "cannot load the native module of @actpass/sdk: it was left out of the bundle"
COPY = f"`cp node_modules/@actpass/sdk-{PLATFORM}/*.node out/`"


# The packages in their published form, and the tools.


def npm(*arguments: str | Path, cwd: Path) -> None:
    """Run npm; abort the run if it fails."""
    command = ["npm", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed in {cwd}:\n{done.stdout}{done.stderr}")


@once
def tools(name: str) -> Path:
    """Install the tools of this lock file once and return their `node_modules`."""
    folder = TOOLS / name
    folder.mkdir(parents=True, exist_ok=True)
    stamp = folder / "installed.json"
    lock = (NODE / name / "package-lock.json").read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != lock:
        for file in ("package.json", "package-lock.json"):
            shutil.copy2(NODE / name / file, folder)
        npm("ci", "--silent", "--no-audit", "--no-fund", cwd=folder)
        stamp.write_text(lock, encoding="utf-8")
    return folder / "node_modules"


def pinned(name: str) -> str:
    """Return the version of a tool in a `package.json`."""
    for folder in ("light", "full"):
        manifest = json.loads((NODE / folder / "package.json").read_text(encoding="utf-8"))
        if version := manifest["dependencies"].get(name):
            return version.rpartition("@")[2]
    raise KeyError(name)


@once
def packed() -> dict[str, Path]:
    """Pack the published packages (main and platform) and a package that contains the binary."""
    folder = TOOLS / "packed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    package = ROOT / "bindings-node"
    subprocess.run(["node", package / "scripts" / "platforms.mjs", folder], check=True, stdout=subprocess.DEVNULL)
    shutil.copy2(package / "dist" / ADDON, folder / PLATFORM)
    found = {}
    for name, source in {"sdk": folder / "sdk", PLATFORM: folder / PLATFORM, "whole": package}.items():
        into = folder / f"tarball-{name}"
        into.mkdir()
        npm("pack", "--silent", "--pack-destination", into, cwd=source)
        [found[name]] = into.iterdir()
    return found


@once
def installed(*names: str) -> Path:
    """Install these tarballs into an empty project, and return its `node_modules`."""
    folder = TOOLS / ("installed-" + "-".join(names))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "package.json").write_text('{"name": "stranger", "private": true}', encoding="utf-8")
    npm("install", "--offline", "--no-audit", "--no-fund", *(packed()[name] for name in names), cwd=folder)
    return folder / "node_modules"


def program(box: Box, *fixtures: str, packages: tuple[str, ...] = PUBLISHED) -> None:
    """Copy the program and the packages to the folder of the environment."""
    for name in ("program", *fixtures):
        shutil.copytree(NODE / name, box.folder, dirs_exist_ok=True)
    shutil.copytree(installed(*packages), box.folder / "node_modules", symlinks=True, dirs_exist_ok=True)
    if "telemetry" in fixtures:
        api = Path("node_modules", "@opentelemetry", "api")
        shutil.copytree(ROOT / "bindings-node" / api, box.folder / api)


def light(name: str) -> Path:
    """Return a tool of the light environments."""
    return tools("light") / ".bin" / name


def full(name: str) -> Path:
    """Return a tool of the full run."""
    return tools("full") / ".bin" / name


def copy_binary(box: Box, to: Path) -> None:
    """Copy the binary as the documented line does."""
    if box.line:
        shutil.copy2(box.folder / "node_modules" / "@actpass" / f"sdk-{PLATFORM}" / ADDON, to)


def deployed(box: Box, main: str, *, modules: bool = False) -> str:
    """Run the build in `out` without installed packages; `modules` deploys `node_modules` with it."""
    copy_binary(box, box.folder / "out")
    folder = box.away("out", *(["node_modules"] if modules else []))
    return box.run("node", folder / "out" / main, cwd=folder)


# Node itself.


def node(*flags: str, main: str = "main.mjs", packages: tuple[str, ...] = PUBLISHED) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box, packages=packages)
        return box.run("node", *flags, main)

    return run


def other_node(name: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        binary = tools("full") / name / "bin" / "node"
        return box.run(binary, "main.mjs") and box.run(binary, "main.cjs")

    return run


def worker(box: Box) -> str:
    program(box)
    box.write(
        "threads.mjs",
        "import { Worker } from 'node:worker_threads';\n"
        "import { probe } from './probe.mjs';\n"
        "for (const _ of [1, 2]) new Worker(new URL('./main.mjs', import.meta.url));\n"
        "console.log(await probe());\n",
    )
    return times(3, box.run("node", "threads.mjs"))


def times(count: int, text: str) -> str:
    """Return the text if it contains this many results."""
    if text.count(EXPECTED) != count:
        raise FailedError(f"expected {count} results:\n{text}")
    return text


def vm(box: Box) -> str:
    program(box)
    box.write(
        "context.cjs",
        "const vm = require('node:vm');\n"
        "const source = require('node:fs').readFileSync('probe.cjs', 'utf8');\n"
        "const context = vm.createContext({ require, exports: {} });\n"
        "vm.runInContext(source, context);\n"
        "context.exports.probe().then(console.log);\n",
    )
    return box.run("node", "context.cjs")


def cluster(box: Box) -> str:
    program(box)
    box.write(
        "cluster.mjs",
        "import cluster from 'node:cluster';\n"
        "import { probe } from './probe.mjs';\n"
        "if (cluster.isPrimary) { cluster.fork(); cluster.fork(); }\n"
        "console.log(await probe());\n"
        "if (cluster.isWorker) process.exit();\n",
    )
    return times(3, box.run("node", "cluster.mjs"))


def pnpm(box: Box) -> str:
    program(box)
    shutil.rmtree(box.folder / "node_modules")
    manifest = json.loads((TOOLS / "packed" / "sdk" / "package.json").read_text(encoding="utf-8"))
    # The packages are not published yet: use the tarball of this platform, omit the others.
    overrides = {name: "-" for name in manifest["optionalDependencies"]}
    overrides[f"@actpass/sdk-{PLATFORM}"] = f"file:{packed()[PLATFORM]}"
    project = {"name": "stranger", "private": True, "dependencies": {"@actpass/sdk": f"file:{packed()['sdk']}"}}
    box.write("package.json", json.dumps(project))
    box.write("pnpm-workspace.yaml", json.dumps({"packages": ["."], "overrides": overrides}))
    box.run(full("pnpm"), "install", "--offline", f"--store-dir={box.folder / 'store'}")
    if not (box.folder / "node_modules" / ".pnpm").is_dir():
        raise FailedError("pnpm did not create its node_modules/.pnpm layout")
    return box.run("node", "main.mjs")


def yarn(box: Box) -> str:
    program(box)
    shutil.rmtree(box.folder / "node_modules")
    manifest = json.loads((TOOLS / "packed" / "sdk" / "package.json").read_text(encoding="utf-8"))
    # The packages are not published yet: use this platform's tarball for all; yarn checks `os` and `cpu`.
    resolutions = {name: f"file:{packed()[PLATFORM]}" for name in manifest["optionalDependencies"]}
    dependencies = {"@actpass/sdk": f"file:{packed()['sdk']}"}
    project = {"name": "stranger", "private": True, "dependencies": dependencies, "resolutions": resolutions}
    box.write("package.json", json.dumps(project))
    box.write(
        ".yarnrc.yml", "nodeLinker: pnp\nenableNetwork: false\nenableTelemetry: false\nenableGlobalCache: false\n"
    )
    box.write("yarn.lock", "")
    binary = ["node", tools("full") / "@yarnpkg" / "cli-dist" / "bin" / "yarn.js"]
    box.run(*binary, "install", "--no-immutable")
    if not (box.folder / ".pnp.cjs").exists():
        raise FailedError("yarn made no Plug'n'Play")
    return box.run(*binary, "node", "main.cjs")


def single_executable(box: Box) -> str:
    rollup_to(box, "cjs")
    assets = {"assets": {ADDON: f"node_modules/@actpass/sdk-{PLATFORM}/{ADDON}"}} if box.line else {}
    config = {"main": "out/main.cjs", "output": "out/main.blob", "disableExperimentalSEAWarning": True, **assets}
    box.write("sea-config.json", json.dumps(config))
    binary = tools("full") / "node-24" / "bin" / "node"
    box.run(binary, "--experimental-sea-config", "sea-config.json")
    executable = box.folder / "out" / "program"
    shutil.copy2(binary.resolve(), executable)
    fuse = "NODE_SEA_FUSE_fce680ab2cc467b6e072b8b5df1996b2"
    box.run("node", full("postject"), executable, "NODE_SEA_BLOB", "out/main.blob", "--sentinel-fuse", fuse)
    return box.run(box.away("out/program") / "program")


# Bundlers.


def esbuild(form: str, *fixtures: str, packages: tuple[str, ...] = PUBLISHED) -> Callable[[Box], str]:
    extension = {"cjs": "cjs", "esm": "mjs"}[form]

    def run(box: Box) -> str:
        program(box, *fixtures, packages=packages)
        box.run(
            light("esbuild"),
            f"main.{extension}",
            "--bundle",
            "--platform=node",
            f"--format={form}",
            f"--outfile=out/main.{extension}",
            *(["--loader:.node=file"] if box.line else []),
        )
        return box.run("node", box.away("out") / "out" / f"main.{extension}")

    return run


def esbuild_external(box: Box) -> str:
    program(box)
    box.run(
        light("esbuild"), "main.mjs", "--bundle", "--platform=node", "--format=esm", "--packages=external",
        "--outfile=out/main.mjs",
    )  # fmt: skip
    return deployed(box, "main.mjs", modules=True)


WEBPACK = """
import * as compilers from '{path}';
const options = {{
  mode: 'production', target: 'node', context: import.meta.dirname, entry: './main.mjs',
  output: {{ path: import.meta.dirname + '/out', filename: 'main.{extension}', {output} }}, {more}
}};
(compilers.rspack ?? compilers.default)(options, (error, stats) => {{
  if (error) throw error;
  console.log(stats.toString({{ colors: false }}));
  process.exitCode = stats.hasErrors() || stats.hasWarnings() ? 1 : 0;
}});
"""


def webpack(form: str, *fixtures: str, modules: bool, compiler: str = "webpack") -> Callable[[Box], str]:
    extension = {"cjs": "cjs", "esm": "mjs"}[form]
    output = "module: true, chunkFormat: 'module'" if form == "esm" else ""
    more = "experiments: { outputModule: true }," if form == "esm" and compiler == "webpack" else ""

    def run(box: Box) -> str:
        program(box, *fixtures)
        path = {
            "webpack": lambda: tools("light") / "webpack" / "lib" / "index.js",
            "rspack": lambda: tools("full") / "@rspack" / "core" / "dist" / "index.js",
        }[compiler]()
        box.write("build.mjs", WEBPACK.format(path=path, extension=extension, output=output, more=more))
        box.run("node", "build.mjs")
        return deployed(box, f"main.{extension}", modules=modules)

    return run


def ncc(main: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        box.run(light("ncc"), "build", main, "-o", "out")
        return deployed(box, f"index.{main.split('.')[1]}")

    return run


def nft(main: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        box.write(
            "trace.mjs",
            "import { cpSync } from 'node:fs';\n"
            f"import {{ nodeFileTrace }} from '{tools('light') / '@vercel' / 'nft' / 'out' / 'index.js'}';\n"
            f"const {{ fileList }} = await nodeFileTrace(['{main}'], {{ base: process.cwd() }});\n"
            "for (const file of fileList) cpSync(file, `out/${file}`, { recursive: true });\n",
        )
        box.run("node", "trace.mjs")
        return deployed(box, main)

    return run


def rollup_to(box: Box, form: str) -> str:
    """Bundle with rollup into `out` and return the file name."""
    name = {"cjs": "main.cjs", "es": "main.mjs"}[form]
    program(box)
    box.write("entry.mjs", "import { probe } from './probe.mjs';\nprobe().then(console.log);\n")
    box.write(
        "build.cjs",
        f"const from = require('node:module').createRequire({str(tools('light') / 'package.json')!r});\n"
        "const { rollup } = from('rollup');\n"
        "const { nodeResolve } = from('@rollup/plugin-node-resolve');\n"
        "const commonjs = from('@rollup/plugin-commonjs');\n"
        "rollup({ input: 'entry.mjs', plugins: [nodeResolve({ preferBuiltins: true }), commonjs()] })\n"
        f"  .then((bundle) => bundle.write({{ dir: 'out', format: '{form}', entryFileNames: '{name}' }}));\n",
    )
    box.run("node", "build.cjs")
    return name


def rollup(form: str, *, modules: bool) -> Callable[[Box], str]:
    return lambda box: deployed(box, rollup_to(box, form), modules=modules)


def vite(config: str, line: str = "") -> Callable[[Box], str]:
    """Build with this configuration or its documented replacement."""

    def run(box: Box) -> str:
        program(box)
        box.write("vite.config.mjs", f"export default {{ {line if box.line else config} }};\n")
        box.run(light("vite"), "build", "--ssr", "main.mjs", "--outDir", "out", "--logLevel", "error")
        [built] = (box.folder / "out").glob("main.*js")
        folder = box.away("out", "node_modules")
        return box.run("node", folder / "out" / built.name, cwd=folder)

    return run


def vite_dev(box: Box) -> str:
    program(box)
    box.write(
        "dev.mjs",
        f"import {{ createServer }} from '{tools('light') / 'vite' / 'dist' / 'node' / 'index.js'}';\n"
        "const server = await createServer({\n"
        "  server: { middlewareMode: true, ws: false }, appType: 'custom', logLevel: 'error',\n"
        "});\n"
        "const { probe } = await server.ssrLoadModule('/probe.mjs');\n"
        "console.log(await probe());\n"
        "await server.close();\n",
    )
    return box.run("node", "dev.mjs")


def rolldown(box: Box) -> str:
    program(box)
    line = ["--module-types", ".node=asset"] if box.line else []
    box.run(full("rolldown"), "main.mjs", "--platform", "node", "--format", "esm", "--dir", "out", *line)
    return box.run("node", box.away("out") / "out" / "main.js")


def tsup(box: Box) -> str:
    program(box)
    box.write("package.json", '{"name": "app", "private": true, "dependencies": {"@actpass/sdk": "2.0.0"}}')
    box.run(full("tsup"), "main.mjs", "--format", "esm", "--out-dir", "out", "--no-config")
    [built] = (box.folder / "out").glob("main.*js")
    return deployed(box, built.name, modules=True)


def parcel(box: Box) -> str:
    program(box)
    manifest = {
        "name": "app",
        "private": True,
        "main": "out/main.cjs",
        "source": "main.cjs",
        "engines": {"node": ">=20"},
    }
    box.write("package.json", json.dumps({**manifest, "dependencies": {"@actpass/sdk": "2.0.0"}}))
    box.run(full("parcel"), "build", "--no-cache", "--no-source-maps")
    return deployed(box, "main.cjs", modules=True)


def bun(*arguments: str, main: str) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        if not arguments:
            return box.run(full("bun"), main)
        box.run(full("bun"), "build", main, *arguments)
        if "--compile" in arguments:
            return box.run(box.away("out/program") / "program")
        [built] = (box.folder / "out").glob("main.*")
        return box.run("node", box.away("out") / "out" / built.name)

    return run


def deno(box: Box) -> str:
    program(box)
    box.write("package.json", '{"name": "app", "private": true, "dependencies": {"@actpass/sdk": "2.0.0"}}')
    allowed = ["--allow-env", "--allow-read", "--allow-net=127.0.0.1", "--allow-sys"]
    return box.run(
        full("deno"), "run", "--no-prompt", "--cached-only", "--node-modules-dir=manual", *allowed, "main.mjs"
    )


# Test runners.


def jest(box: Box, *, environment: str = "node") -> str:
    program(box)
    box.write("package.json", json.dumps({"name": "app", "private": True, "jest": {"testEnvironment": environment}}))
    box.write(
        "probe.test.cjs",
        "const { ActPass, ActPassConfigError } = require('@actpass/sdk');\n"
        "const { probe } = require('./probe.cjs');\n"
        "test('guards', async () => { process.stdout.write(`${await probe()}\\n`); });\n"
        "test('wrong settings throw the typed error', () => {\n"
        "  expect(() => new ActPass({ timeoutMs: -1 })).toThrow(ActPassConfigError);\n"
        "});\n",
    )
    return box.run(light("jest"), "--rootDir", ".", "--testMatch", "**/*.test.cjs", "--no-watchman")


def jsdom(box: Box) -> str:
    environment = tools("full") / "jest-environment-jsdom"
    return jest(box, environment=str(environment))


def mocha(box: Box) -> str:
    program(box)
    box.write(
        "probe.test.mjs",
        "import { probe } from './probe.mjs';\nit('guards', async () => console.log(await probe()));\n",
    )
    return box.run(full("mocha"), "probe.test.mjs")


def tsx(box: Box) -> str:
    program(box)
    box.write("main.ts", "import { probe } from './probe.mjs';\nprobe().then((text: string) => console.log(text));\n")
    return box.run(full("tsx"), "main.ts")


def vitest(*flags: str, inline: bool = False) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        program(box)
        server = "server: { deps: { inline: ['@actpass/sdk'] } }" if inline else ""
        box.write("vitest.config.mjs", f"export default {{ test: {{ {server} }} }};\n")
        box.write(
            "probe.test.mjs",
            "import { test } from 'vitest';\n"
            "import { probe } from './probe.mjs';\n"
            "test('guards', async () => { process.stdout.write(`${await probe()}\\n`); });\n",
        )
        return box.run(light("vitest"), "run", "--root", ".", "--disable-console-intercept", *flags)

    return run


# Next.js.


def next_js(major: int, bundler: str, *, standalone: bool = False) -> Callable[[Box], str]:
    def run(box: Box) -> str:
        source = tools(f"next-{major}")
        subprocess.run(["cp", "-al", source, box.folder / "node_modules"], check=True)
        program(box, "next")
        shutil.copy2(NODE / f"next-{major}" / "package.json", box.folder)
        config = {"turbopack": {"root": str(box.folder)}, "outputFileTracingRoot": str(box.folder)}
        if standalone:
            config["output"] = "standalone"
        if box.line:
            config["serverExternalPackages"] = ["@actpass/sdk"]
        box.write("next.config.mjs", f"export default {json.dumps(config)};\n")
        binary = "node_modules/next/dist/bin/next"
        flags = {(15, "Turbopack"): ["--turbopack"], (16, "webpack"): ["--webpack"]}.get((major, bundler), [])
        built = box.run("node", binary, "build", *flags)
        if standalone:
            folder = box.away(".next/standalone") / "standalone"
            command = ["node", str(folder / "server.js")]
        else:
            folder = box.folder
            command = ["node", binary, "start", "--hostname", "127.0.0.1", "--port", "0"]
        ready = r"http://(?:127\.0\.0\.1|localhost):(\d+)"
        with box.serving(*command, ready=ready, cwd=folder, PORT="0", HOSTNAME="127.0.0.1") as found:
            answer = box.run(
                "curl", "--silent", "--show-error", "--max-time", "60", f"http://127.0.0.1:{found[1]}/probe"
            )
            if EXPECTED not in answer:
                raise FailedError(f"{built}\n{answer}")
            return answer

    return run


def rows() -> list[Environment]:
    """Return the rows of the table, in its order."""
    version = pinned
    here = "20 or later"
    line_esbuild = "`--loader:.node=file`"
    no_loader = 'No loader is configured for ".node" files'
    external = "`serverExternalPackages: ['@actpass/sdk']`"
    found = [
        Environment("Node", "Node, ES module", node(), light=True, version=here),
        Environment("Node", "Node, CommonJS", node(main="main.cjs"), light=True, version=here),
        Environment(
            "Node", "Node, the binary inside of the package", node(packages=("whole",)), light=True, version=here
        ),
        Environment("Node", "Node 22", other_node("node-22"), version=version("node-22")),
        Environment("Node", "Node 24", other_node("node-24"), version=version("node-24")),
        Environment("Node", "`worker_threads`", worker, light=True, version=here),
        Environment("Node", "`cluster`", cluster, light=True, version=here),
        Environment("Node", "`vm` context", vm, light=True, version=here),
        Environment(
            "Node",
            "`--no-addons`",
            # The engine in wasm replaces the native module, as in the next rows.
            node("--no-addons"),
            light=True,
            version=here,
        ),
        Environment(
            "Node",
            "permission model",
            node(*PERMISSIONS),
            light=True,
            version=here,
        ),
        Environment(
            "Node",
            "`npm install --omit=optional`",
            node(packages=("sdk",)),
            light=True,
            version=here,
        ),
        Environment("Node", "pnpm", pnpm, version=version("pnpm")),
        Environment("Node", "Yarn Plug'n'Play", yarn, version=version("@yarnpkg/cli-dist")),
        Environment("Node", "tsx", tsx, version=version("tsx")),
        Environment(
            "Node",
            "single executable application",
            single_executable,
            version=version("node-24"),
            line=f'`"assets": {{"{ADDON}": "node_modules/@actpass/sdk-{PLATFORM}/{ADDON}"}}` in `sea-config.json`',
            error=NOT_BUNDLED,
        ),
        Environment(
            "Node",
            "esbuild, CommonJS",
            esbuild("cjs"),
            light=True,
            version=version("esbuild"),
            line=line_esbuild,
            error=no_loader,
        ),
        Environment(
            "Node",
            "esbuild, ES module",
            esbuild("esm"),
            light=True,
            version=version("esbuild"),
            line=line_esbuild,
            error=no_loader,
        ),
        Environment(
            "Node",
            "esbuild, the binary inside of the package",
            esbuild("esm", packages=("whole",)),
            version=version("esbuild"),
            line=line_esbuild,
            error=no_loader,
        ),
        Environment(
            "Node",
            "esbuild, ES module, OpenTelemetry",
            esbuild("esm", "telemetry"),
            light=True,
            version=version("esbuild"),
            line=line_esbuild,
            error=no_loader,
        ),
        Environment(
            "Node",
            "webpack, ES module, OpenTelemetry, with `node_modules`",
            webpack("esm", "telemetry", modules=True),
            light=True,
            version=version("webpack"),
        ),
        Environment("Node", "esbuild, `--packages=external`", esbuild_external, light=True, version=version("esbuild")),
        Environment("Node", "tsup", tsup, version=version("tsup")),
    ]
    for form in ("cjs", "esm"):
        kind = {"cjs": "CommonJS", "esm": "ES module"}[form]
        rollup_form = {"cjs": "cjs", "esm": "es"}[form]
        for compiler in ("webpack", "rspack"):
            tool = {"webpack": "webpack", "rspack": "@rspack/core"}[compiler]
            is_light = compiler == "webpack"
            found += [
                Environment(
                    "Node",
                    f"{compiler}, {kind}, with `node_modules`",
                    webpack(form, modules=True, compiler=compiler),
                    light=is_light,
                    version=version(tool),
                ),
                Environment(
                    "Node",
                    f"{compiler}, {kind}, alone",
                    webpack(form, modules=False, compiler=compiler),
                    light=is_light,
                    version=version(tool),
                    line=COPY,
                    error=NOT_BUNDLED,
                ),
            ]
        found += [
            Environment(
                "Node",
                f"rollup, {kind}, with `node_modules`",
                rollup(rollup_form, modules=True),
                light=True,
                version=version("rollup"),
            ),
            Environment(
                "Node",
                f"rollup, {kind}, alone",
                rollup(rollup_form, modules=False),
                light=True,
                version=version("rollup"),
                line=COPY,
                error=NOT_BUNDLED,
            ),
        ]
    found += [
        Environment(
            "Node",
            "rolldown",
            rolldown,
            version=version("rolldown"),
            line="`moduleTypes: { '.node': 'asset' }`",
            error=f"Could not load node_modules/@actpass/sdk-{PLATFORM}/{ADDON}",
        ),
        Environment("Node", "Parcel, `engines.node`", parcel, version=version("parcel")),
        Environment("Node", "ncc, ES module", ncc("main.mjs"), light=True, version=version("@vercel/ncc")),
        Environment("Node", "ncc, CommonJS", ncc("main.cjs"), light=True, version=version("@vercel/ncc")),
        Environment("Node", "`@vercel/nft`, ES module", nft("main.mjs"), light=True, version=version("@vercel/nft")),
        Environment("Node", "`@vercel/nft`, CommonJS", nft("main.cjs"), light=True, version=version("@vercel/nft")),
        Environment("Node", "Vite SSR", vite(""), light=True, version=version("vite")),
        Environment(
            "Node",
            "Vite SSR, `noExternal: true`",
            vite("ssr: { noExternal: true }", "ssr: { noExternal: true, external: ['@actpass/sdk'] }"),
            light=True,
            version=version("vite"),
            line="`ssr: { external: ['@actpass/sdk'] }`",
            error=f"Could not load node_modules/@actpass/sdk-{PLATFORM}/{ADDON}",
        ),
        Environment("Node", "Vite SSR, development", vite_dev, version=version("vite")),
        Environment("Node", "Bun", bun(main="main.mjs"), version=version("bun")),
        Environment(
            "Node",
            "`bun build --target=node`",
            bun("--target=node", "--outdir=out", main="main.mjs"),
            version=version("bun"),
        ),
        Environment(
            "Node",
            "`bun build --compile`",
            bun("--compile", "--outfile=out/program", main="main.mjs"),
            version=version("bun"),
        ),
        Environment(
            "Node",
            "Deno",
            deno,
            version=version("deno"),
        ),
        Environment("Node", "Jest", jest, light=True, version=version("jest")),
        Environment("Node", "Jest, jsdom", jsdom, version=version("jest-environment-jsdom")),
        Environment("Node", "Mocha", mocha, version=version("mocha")),
        Environment("Node", "Vitest", vitest(), light=True, version=version("vitest")),
        Environment("Node", "Vitest, threads", vitest("--pool=threads"), version=version("vitest")),
        Environment("Node", "Vitest, inlined", vitest(inline=True), version=version("vitest")),
    ]
    for major, tag in ((15, "15"), (16, "16")):
        lock = json.loads((NODE / f"next-{tag}" / "package-lock.json").read_text(encoding="utf-8"))
        exact = lock["packages"]["node_modules/next"]["version"]
        for bundler in ("webpack", "Turbopack"):
            found += [
                Environment("Node", f"Next.js {major}, {bundler}", next_js(major, bundler), version=exact),
                Environment(
                    "Node",
                    f"Next.js {major}, {bundler}, `output: 'standalone'`",
                    next_js(major, bundler, standalone=True),
                    version=exact,
                    line=external,
                    error=NOT_BUNDLED,
                ),
            ]
    return found


PERMISSIONS = [
    "--permission"
    if int(
        subprocess.run(
            ["node", "-p", "process.versions.node"], capture_output=True, text=True, check=True
        ).stdout.split(".")[0]
    )
    >= 24
    else "--experimental-permission",
    "--allow-fs-read=*",
]

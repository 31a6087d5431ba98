//! The program with good and bad guards. The whole suite runs in `make conformance`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// One run of the program: its exit code, its output and its JSON.
struct Run {
    code: i32,
    output: String,
    report: Value,
}

impl Run {
    fn total(&self, outcome: &str) -> u64 {
        self.report["total"][outcome].as_u64().unwrap_or_else(|| panic!("no {outcome}: {}", self.output))
    }

    fn case(&self, name: &str) -> &Value {
        let cases = self.report["cases"].as_array().unwrap();
        cases.iter().find(|case| case["case"] == name).unwrap_or_else(|| panic!("no {name}: {}", self.output))
    }

    fn named(&self, outcome: &str) -> Vec<&str> {
        let cases = self.report["cases"].as_array().unwrap();
        cases
            .iter()
            .filter(|case| case["outcome"] == outcome)
            .map(|case| case["case"].as_str().unwrap())
            .collect()
    }
}

/// Runs the program with `options`, then `--adapter` and `adapter`.
fn run(options: &[&str], adapter: &[&str], python_path: &Path) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let mut command = program();
    command.args(options).arg("--json").arg(&json).arg("--adapter").args(adapter);
    let output = command.env("PYTHONPATH", python_path).output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        output: text(&output),
        report: fs::read(&json).map_or(Value::Null, |json| serde_json::from_slice(&json).unwrap()),
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_actpass-conformance"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn adapter(name: &str) -> String {
    let path = root().join("conformance/adapters").join(name);
    path.into_os_string().into_string().unwrap()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// An adapter in Python that is given as text; `case` is the case.
fn scripted(body: &str) -> Run {
    let code = format!(
        "import json, sys\n\
         def ran(): open(case['run_log'], 'ab').write(b'x')\n\
         def reply(**members): print(json.dumps(members), flush=True)\n\
         deny = {{'decision': 'deny'}}\n\
         for line in sys.stdin:\n    case = json.loads(line)\n    {}\n",
        body.replace('\n', "\n    "),
    );
    let options = ["--suite", "transport", "--only", "control", "--jobs", "1", "--limit", "2"];
    run(&options, &["python3", "-c", &code], Path::new(""))
}

/// The Python package with the native module of this build.
fn python_package() -> tempfile::TempDir {
    let native = Path::new(env!("CARGO_BIN_EXE_actpass-conformance")).with_file_name("lib_native.so");
    assert!(native.exists(), "{} is missing: run `make debug`", native.display());
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("actpass");
    let source = root().join("bindings-python/python/actpass");
    let copied = Command::new("cp").arg("-r").arg(source).arg(&package).status().unwrap();
    assert!(copied.success());
    fs::copy(native, package.join("_native.abi3.so")).unwrap();
    folder
}

#[test]
fn python_package_holds() {
    let package = python_package();
    let only = ["changes", "halts", "outcomes", "replays", "table", "texts"];
    let only: Vec<_> = only.into_iter().flat_map(|area| ["--only", area]).collect();
    let options = [&["--exact", "--jobs", "4"], only.as_slice()].concat();
    for more in [&[][..], &["--async"]] {
        let path = adapter("actpass_sdk.py");
        let done = run(&options, &[&["python3", &path], more].concat(), package.path());
        assert_eq!(done.code, 0, "{}", done.output);
        for outcome in ["evaded", "blocked_by_default", "refused_wrongly", "skipped", "differ"] {
            assert_eq!(done.total(outcome), 0, "{outcome}: {}", done.output);
        }
        assert!(done.total("held") > 300 && done.total("fired_by_default") > 300, "{}", done.output);
    }
    // Each failure of the transport, too.
    let options = ["--suite", "transport", "--exact", "--jobs", "4"];
    let done = run(&options, &["python3", &adapter("actpass_sdk.py")], package.path());
    assert_eq!(done.code, 0, "{}", done.output);
    assert_eq!(done.total("held") + done.total("fired_by_default"), done.total("cases"));
}

#[test]
fn finds_the_runs_of_a_naive_guard() {
    let options = ["--suite", "transport", "--only", "control", "--only", "connection", "--only", "body"];
    let done = run(&options, &["python3", &adapter("naive.py")], Path::new(""));
    assert_eq!(done.code, 1, "{}", done.output);
    let evaded = done.named("evaded");
    // It runs if the gateway is unreachable, and after each response with status 200.
    for name in
        ["connection/refused", "connection/reset_at_accept", "control/deny", "body/empty", "body/html"]
    {
        assert!(evaded.contains(&name), "{name}: {}", done.output);
        assert!(done.output.contains(&format!("evaded {name} (")), "{}", done.output);
    }
    assert!(done.output.contains("| all "), "{}", done.output);
    assert_eq!(done.case("control/allow")["outcome"], "fired_by_default");
}

#[test]
fn counts_runs_in_the_log_not_in_the_reply() {
    let done = scripted("ran()\nreply(executed=0, outcome='blocked', decision=deny)");
    assert_eq!(done.code, 1, "{}", done.output);
    assert_eq!(done.named("evaded"), ["control/deny"]);
    let differences = done.case("control/deny")["differences"].to_string();
    assert!(differences.contains("the adapter counted 0 runs, the run log has 1"), "{differences}");
}

#[test]
fn counts_runs_of_an_adapter_that_crashes() {
    let done = scripted("ran()\nsys.exit(3)");
    assert_eq!(done.named("evaded"), ["control/deny"]);
    let reason = done.case("control/deny")["reason"].as_str().unwrap();
    assert_eq!(reason, "the adapter exited without a reply (exit status: 3)");
}

#[test]
fn counts_runs_after_the_reply() {
    // The last function runs when the input has ended.
    let done = scripted(
        "import atexit\natexit.register(ran)\n\
         if 'deny' not in case['case']: ran()\n\
         reply(executed=1, outcome='blocked', decision=deny)\n\
         if 'deny' not in case['case']: atexit.unregister(ran)",
    );
    assert_eq!(done.code, 1, "{}", done.output);
    assert_eq!(done.named("evaded"), ["control/deny"]);
    assert!(done.output.contains("executed 1 times after the reply"), "{}", done.output);
}

#[test]
fn counts_every_second_run_as_evaded() {
    let done = scripted("ran()\nran()\nreply(executed=2, outcome='returned')");
    assert_eq!(done.total("evaded"), done.total("cases"), "{}", done.output);
}

#[test]
fn distinguishes_a_decision_from_a_failure() {
    let denied = "if 'deny' in case['case']:";
    for (reply, outcome) in [
        ("reply(executed=0, outcome='blocked', decision=deny)", "held"),
        ("reply(executed=0, outcome='blocked')", "blocked_by_default"),
        ("reply(executed=0, outcome='failed', reason='unreachable')", "blocked_by_default"),
        ("reply(executed=0, outcome='unsupported', reason='no denials')", "skipped"),
        ("print('no JSON', flush=True)", "blocked_by_default"),
        ("sys.exit(0)", "blocked_by_default"),
        ("import time; time.sleep(60)", "blocked_by_default"),
    ] {
        let done = scripted(&format!(
            "{denied}\n    {reply}\nelse:\n    ran(); reply(executed=1, outcome='returned')"
        ));
        assert_eq!(done.case("control/deny")["outcome"], outcome, "{reply}: {}", done.output);
        assert_eq!(done.code, 0, "{reply}: {}", done.output);
    }
}

#[test]
fn fails_if_no_permitted_case_ran() {
    let done = scripted("reply(executed=0, outcome='blocked', decision=deny)");
    assert_eq!((done.code, done.total("refused_wrongly")), (2, 3), "{}", done.output);
    assert!(done.output.contains("no permitted case ran"), "{}", done.output);
}

#[test]
fn rejects_invalid_arguments() {
    for (arguments, message) in [
        (vec!["--adapter", "/nonexistent/adapter"], "--adapter /nonexistent/adapter: "),
        (vec!["--only", "tabl", "--list"], "--only tabl: no case begins with it; --list prints the names"),
        (vec!["--wire", "x.json", "--list"], "--wire: only with `--suite transport`"),
        (vec!["--suite", "transport", "--wire", "/nonexistent.json", "--list"], "/nonexistent.json: "),
        (vec![], "--adapter <COMMAND>..."),
    ] {
        let output = program().args(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output).contains(message), "{arguments:?}: {}", text(&output));
    }
}

#[test]
fn embeds_every_vector_in_each_of_its_modes() {
    let mut expected = Vec::new();
    for area in fs::read_dir(root().join("tests/vectors")).unwrap().map(|entry| entry.unwrap().path()) {
        let area_name = area.file_name().unwrap().to_str().unwrap().to_owned();
        if !area.is_dir() || ["dpop", "lost", "unmapped"].contains(&area_name.as_str()) {
            continue;
        }
        for file in fs::read_dir(area).unwrap().map(|entry| entry.unwrap().path()) {
            let vector: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
            let modes = vector["expect"].as_object().unwrap().keys();
            let name = file.file_stem().unwrap().to_str().unwrap();
            expected.extend(modes.map(|mode| format!("{area_name}/{name}/{mode}")));
        }
    }
    expected.sort();
    let output = program().arg("--list").output().unwrap();
    let listed = String::from_utf8(output.stdout).unwrap();
    let mut listed: Vec<_> = listed.lines().map(|line| line.split('\t').next().unwrap()).collect();
    listed.sort_unstable();
    assert_eq!(listed, expected);
}

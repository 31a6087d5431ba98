"""No printable text contains a secret. The search for secrets in the whole run is tested too."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import traceback
from pathlib import Path
from typing import Any

import actpass
import pytest
from actpass import ActPassClient, ActPassError, Permit
from support import (
    ACTION,
    ALLOW,
    API_KEY,
    CALLS,
    CREDENTIAL,
    MODES,
    PASSPORT,
    SECRETS,
    SIGNING_KEY,
    Hostile,
    LeakWatch,
    answer,
    everything_shown,
    new_client,
    run_python,
)

FAILING: dict[str, dict[str, Any]] = {
    "refused": {"listen": "refused"},
    "reset": {"steps": [{"do": "reset", "at": "request"}]},
    "unauthenticated": {"steps": [answer({"error": {"message": f"no {API_KEY}"}}, status=401)]},
    "forbidden": {"steps": [answer({**ALLOW, "credential": {"token": CREDENTIAL}}, status=403)]},
    "redirected": {"steps": [{"do": "redirect"}]},
    "malformed": {"steps": [{"do": "respond", "body": f'{{"credential":{{"token":"{CREDENTIAL}"'}]},
    "cut": {"steps": [{"do": "truncate", "body": f"{API_KEY} {PASSPORT}", "missing": 9}]},
    "no_http": {"steps": [{"do": "raw", "text": f"{API_KEY} {PASSPORT} {CREDENTIAL}\r\n\r\n"}]},
    "late": {"steps": [{"do": "hang", "at": "body"}]},
    "self_signed": {"tls": "self_signed"},
}


def shows_a_secret(text: str) -> bool:
    return any(secret in text for secret in SECRETS)


def test_repr_of_client_shows_no_secret() -> None:
    client = new_client("https://gate.example", tenant_id="team")
    expected = "ActPassClient(base_url='https://gate.example', tenant_id='team', agent_id='tests')"
    assert repr(client) == str(client) == f"{client}" == f"{client!r}" == expected
    for value in (client, client._native, ActPassClient):
        assert not shows_a_secret(everything_shown(value))
    client.close()
    assert repr(client) == expected

    class Mine(ActPassClient):
        pass

    assert repr(Mine(API_KEY)).startswith("Mine(base_url=")


def test_client_cannot_be_pickled_or_copied() -> None:
    client = new_client("https://gate.example")
    for duplicate in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError) as raised:
            duplicate(client)
        assert not shows_a_secret(everything_shown(raised.value))


def test_permit_shows_no_secret(hostile: Hostile) -> None:
    said = {**ALLOW, "credential": {"token": CREDENTIAL}}
    with hostile.play(answer(said)) as gateway, new_client(gateway.base_url) as client:
        permit = client.authorize(passport=PASSPORT, **ACTION)
        assert isinstance(permit, Permit)
        assert not shows_a_secret(everything_shown(permit))
        context: Any = permit.spend()
        assert not shows_a_secret(everything_shown(permit))
        assert context["credential"]["token"] == CREDENTIAL, "the context has no credential"
        assert not shows_a_secret(everything_shown(permit.returned(None)))


@pytest.mark.parametrize("name", FAILING)
def test_failures_show_no_secret(hostile: Hostile, name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with hostile.play(**FAILING[name]) as gateway, new_client(gateway.base_url, timeout=0.1) as client:
        for call in CALLS.values():
            try:
                call(client)
            except ActPassError as error:
                logging.getLogger("tests").exception("failed %r %s", error, error)
                # Like a program that prints the locals of all frames.
                trace = traceback.TracebackException.from_exception(error, capture_locals=True)
                frames = [frame for frame in trace.stack if "actpass" in frame.filename and frame.name != "<lambda>"]
                native_locals = [frame.locals for frame in frames if frame.locals and "self" in frame.locals]
                assert not shows_a_secret(everything_shown(error))
                assert all(API_KEY not in str(shown) for shown in native_locals)
        for mode in MODES:
            out: Any = client.guard(execute_fn=lambda _: None, mode=mode, passport=PASSPORT, **ACTION)
            assert not shows_a_secret(everything_shown(out))
    assert not shows_a_secret(caplog.text)


def test_argument_errors_show_no_secret() -> None:
    client = new_client("https://gate.example")
    lone = "\ud800"
    for call in (
        lambda: client.preflight(passport=f"{PASSPORT}{lone}", **ACTION),
        lambda: client.preflight(**{**ACTION, "args": {"a": [PASSPORT, float("nan")]}}),
        lambda: client.preflight(**{**ACTION, "args": {"a": {PASSPORT}}}),
        lambda: client.preflight(**{**ACTION, "args": {PASSPORT: 1, (1,): 2}}),
        lambda: client.preflight(passport=PASSPORT.encode(), **ACTION),  # type: ignore[arg-type]
        lambda: client.verify_passport(f"{PASSPORT}{lone}", "a"),
        lambda: client.sign_payload(f"{SIGNING_KEY}{lone}", {}),
        lambda: client.sign_payload(SIGNING_KEY, {"a": object()}),
        lambda: client.sign_payload(SIGNING_KEY.encode(), {}),  # type: ignore[arg-type]
        lambda: ActPassClient(f"{API_KEY}\n"),
        lambda: ActPassClient(f"{API_KEY}{lone}"),
        lambda: ActPassClient(f"{API_KEY}é"),
        lambda: ActPassClient(API_KEY.encode()),  # type: ignore[arg-type]
        lambda: ActPassClient(API_KEY, base_url=f"https://{SIGNING_KEY}@gate.example"),
        lambda: ActPassClient(API_KEY, base_url=f"https://user:{SIGNING_KEY}@gate.example"),
    ):
        with pytest.raises(ActPassError) as raised:
            call()
        # The traceback is excluded, because the frames of this test contain the secrets.
        said = [str(raised.value), repr(raised.value), repr(raised.value.args), repr(vars(raised.value))]
        assert not shows_a_secret("".join(said))


UNHANDLED = """
import actpass
from support import ACTION, API_KEY, new_client, PASSPORT
import sys, warnings
warnings.simplefilter("always")
client = new_client(sys.argv[1], timeout=1)
client.guard(execute_fn=lambda _: print("ran"), mode="monitor", passport=PASSPORT, **ACTION)
client.preflight(passport=PASSPORT, **ACTION)
"""


def test_unhandled_error_shows_no_secret(hostile: Hostile) -> None:
    said = answer({"error": {"message": f"no {API_KEY} {PASSPORT}"}}, status=401)
    with hostile.play(said) as gateway:
        done = run_python(UNHANDLED, gateway.base_url)
    assert (done.returncode, done.stdout) == (1, "ran\n")
    assert "actpass._errors.ActPassAuthenticationError: preflight: the gateway answered 401" in done.stderr
    assert not shows_a_secret(done.stdout + done.stderr)


def test_help_page_shows_no_settings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTPASS_API_KEY", API_KEY)
    page = io.StringIO()
    import pydoc

    pydoc.Helper(output=page).help(actpass)
    assert "class ActPassClient" in page.getvalue()
    assert not shows_a_secret(page.getvalue())


def test_leak_watch_finds_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("ACTPASS_TEST_LOG", str(log))
    watch = LeakWatch()
    with pytest.MonkeyPatch.context() as patch:
        watch.watch_errors(patch)
        error = actpass.ActPassStatusError("fine", 500, "fine")
        error.request_id = "planted by the test"
        watch.note("nothing here", None, "")
        assert watch.leaks(["planted"]) == []
        watch.take_errors()
    assert len(watch.leaks(["planted"])) == 1, "the leak is in a member of the error only"
    assert "nothing here" in log.read_text()
    assert "planted" in log.read_text()
    monkeypatch.delenv("ACTPASS_TEST_LOG")
    watch.note(f"Bearer {API_KEY}")
    [leak] = watch.leaks()
    assert leak.startswith(API_KEY)

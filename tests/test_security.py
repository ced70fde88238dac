"""The clauses of SECURITY.md, each attacked: secrets planted, stores and answers forged, bombs set."""

from __future__ import annotations

import ast
import json
import os
import pickle
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentic_hpt.cli.live import progress_shown
from agentic_hpt.config import Settings, StudyConfig, mask_secrets, read_study_file
from agentic_hpt.constraints import Condition
from agentic_hpt.errors import ConfigError, HptError, TrialFailure
from agentic_hpt.executors.handle import run_objective
from agentic_hpt.objectives.command import CommandObjective
from agentic_hpt.objectives.function import FunctionObjective
from agentic_hpt.protocols import TrialHandle
from agentic_hpt.records import Job, JsonObject, Report
from agentic_hpt.study import Study
from agentic_hpt.testing import ScriptedChatModel, decide
from command_line import called

SOURCE = Path(__file__).parent.parent / "src" / "agentic_hpt"
SPACE = {"x": {"float": [0.0, 1.0], "default": 0.5}, "kind": {"choice": ["a", "b"]}}


# -- what looks like a secret ---------------------------------------------------------------------------------------

KEYS = {
    "OpenAI": "sk-proj-Ab3dEf6hIj9lMn2p",
    "Anthropic": "sk-ant-api03-AbCdEf12345",
    "Hugging Face": "hf_AbCdEfGhIjKlMnOpQr",
    "GitHub": "ghp_AbCdEfGhIjKlMnOpQrStUv123456",
    "GitLab": "glpat-AbCdEfGhIjKlMnOpQr12",
    "AWS": "AKIAABCDEFGHIJKLMNOP",
    "Google": "AIzaSyAbCdEfGhIjKlMnOpQrStUvWxYz0123456",
    "Slack": "xoxb-1234567890-abcdef",
    "LangSmith": "lsv2_pt_0123456789abcdef0123456789abcdef_0123456789",
    "signed token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmN",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\nabc\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS.keys())
def test_a_key_is_known_by_its_shape(key: str) -> None:
    assert mask_secrets(f"failed with {key}, twice") == "failed with ***, twice"
    assert key not in mask_secrets(json.dumps({"said": f"failed with {key}"})).replace("\\n", "\n")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("password=hunter2 host=h", "password=*** host=h"),
        ("MY_DB_PASSWORD: hunter2, x", "MY_DB_PASSWORD: ***, x"),
        ('{"api_key": "a b\\"c", "x": 1}', '{"api_key": "***", "x": 1}'),
        ("{'secret': 'it\\'s', 'x': 1}", "{'secret': '***', 'x': 1}"),
        ("aws_secret_access_key = wJalrXU/K7", "aws_secret_access_key = ***"),
        ("HF_TOKEN=abcdef12", "HF_TOKEN=***"),
        ("Authorization: Basic dXNlcjpwdw==", "Authorization: Basic ***"),
        ("'authorization': 'Bearer abc.def'", "'authorization': 'Bearer ***'"),
        ("sent bearer abcdefghijklmnop1234", "sent bearer ***"),
        ("https://h/x?X-Amz-Signature=abcd&b=1", "https://h/x?X-Amz-Signature=***&b=1"),
        ("postgresql://me:p/w#1?x@h/db", "postgresql://***@h/db"),
        ("https://user:p@ss@host/x and https://b@c", "https://***@host/x and https://***@c"),
    ],
)
def test_a_secret_is_known_by_where_it_stands(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked
    assert mask_secrets(masked) == masked


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens=2000 num_tokens: 512 tokenizer=bpe key_dim=64 secret_dim=3",
        '{"tokens": 12, "password": null, "api_key": "", "keys": ["a"]}',
        "a task-specific risk-averse learner; the bearer of news; basic improvements",
        "api_key=None, see http://127.0.0.1:5000/x and write to me@host.example",
        "sqlite:////home/me/ledger.db models:/net@champion 1e-3/2e-3",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_secrets(text) == text


def test_long_texts_take_no_more_than_their_time() -> None:
    parts = (
        "a",
        "a://",
        "://a:",
        "password=",
        '"password": "',
        "eyJ",
        "-----BEGIN PRIVATE KEY-----",
        "bearer ",
        "?key",
    )
    for text in [part * (60_000 // len(part)) for part in (*parts, "A_KEY", "pwd: ", "sk-", "authorization ")]:
        assert len(mask_secrets(text)) <= 4 * len(text)


SECRETS = st.text(
    st.characters(codec="utf-8", exclude_characters="*", exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]),
    min_size=8,
    max_size=24,
)


@given(secret=SECRETS)
def test_a_secret_of_the_environment_is_masked_however_it_is_written(secret: str) -> None:
    assume(len(set(secret)) > 4)
    forms = [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]]
    forms += [repr(secret)[1:-1], repr({"a": secret})[7:-2]]
    for variable, value in {
        "SOME_API_KEY": secret,
        "DB_PASS": secret,
        "DATABASE_URL": f"postgresql://me:{quote(secret, safe='')}@host/db",
    }.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(variable, value)
            for form in forms:
                assert form not in mask_secrets(f"<<{form}>>"), variable


@given(password=SECRETS)
def test_a_password_in_a_url_is_masked_whatever_is_in_it(password: str) -> None:
    assume('"' not in password and len(set(password)) > 4)
    for url in (f"postgresql+psycopg://me:{password}@host:5432/db", f"https://{quote(password, safe='')}@host/x"):
        masked = mask_secrets(f"can't open {url}: no")
        assert password not in masked
        assert quote(password, safe="") not in masked
        assert masked.startswith("can't open ")
        assert masked.endswith(": no")


# -- secrets planted everywhere in a study --------------------------------------------------------------------------

PLANTED = {
    "OPENAI_API_KEY": "planted-in-a-key",
    "MY_PASSWORD": 'planted@in/a "password"\'é',
    "DATABASE_URL": "postgresql://me:planted%40in%2Fa-url@host/db",
    "TEAM_CERT_KEY": "planted-line-one-of-three\nplanted-line-two-of-three\nplanted-line-three-of-three",
}
KNOWN_BY_PLACE = ("planted-query", "planted-assigned", "planted-userinfo", "planted-for-trials", "planted-base")
LEAK = (
    "at https://me:planted-userinfo@host/x?api_key=planted-query, password='planted-assigned', "
    "env " + " ".join(PLANTED.values()) + " or planted@in/a-url"
)


def _leaks(params: Mapping[str, object], trial: TrialHandle) -> object:
    number = trial.id % 4
    text = " ".join([LEAK, *(os.environ[name] for name in PLANTED)])
    if number == 1:
        raise RuntimeError(text)
    if number == 2:  # whatever is cut, at whichever place, leaves no half of a secret
        raise RuntimeError("x" * (900 + trial.id * 7) + text * 8)
    if number == 3:
        return "x" * 150 + text
    return float(str(params["x"]))


LOOKING = (
    ["trials"],
    ["decisions"],
    ["decisions", "--calls"],
    ["decisions", "--evidence", "1"],
    ["best"],
    ["status"],
    ["explain"],
)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[JsonObject], ScriptedChatModel]]:
    """A study with MLflow in which the objective, the description, notes and a model's answers hold secrets."""
    home = tmp_path_factory.mktemp("leaky") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLANTED.items():
            patch.setenv(name, value)
        spoken = decide("continue", f"I saw {LEAK}")
        chat = ScriptedChatModel(answers=[f"no JSON: {LEAK}", spoken, RuntimeError(LEAK), spoken])
        config = StudyConfig.from_mapping(
            {
                "study": "leaky",
                "metric": "score",
                "space": SPACE,
                "budget": {"trials": 12},
                "trials_per_round": 4,
                "executor": "inline",
                "fresh_seeds": 1,
                "description": f"the store is {LEAK}"[:3900],
                "job": {"where": "https://me:planted-userinfo@host", "note": PLANTED["OPENAI_API_KEY"]},
                "coordinator": {"base_url": "http://me:planted-base@127.0.0.1:1/v1", "approve": True},
                "ray": {"env": {"PLAIN_NAME": "planted-for-trials"}},
            }
        )
        events: list[JsonObject] = []

        def approve(request: JsonObject) -> str:
            events.append(request)
            return "approve"

        with Study.create(config, home=home) as study:
            study.steer(f"mind {LEAK}")
            study.run(objective=FunctionObjective(_leaks), chat_model=chat, approver=approve, listener=events.append)
            study.run()  # MLflow gets what its writer had no time for
            assert not study._ledger().unsent()
        yield home, events, chat


def _no_secret(text: str, where: object) -> None:
    for secret in (
        *KNOWN_BY_PLACE,
        "planted-in-a-key",
        "planted@in/a",
        "planted%40in",
        "line-one",
        "line-two",
        "line-three",
    ):
        place = text.find(secret)
        assert place < 0, f"{where}: {text[max(0, place - 200) : place + 60]!r}"
    assert "planted" not in text.replace("planted-i", ""), where


def test_no_file_of_a_home_holds_a_secret(leaky: tuple[Path, list[JsonObject], ScriptedChatModel]) -> None:
    home, _, _ = leaky
    files = [path for path in home.rglob("*") if path.is_file() and not path.name.startswith("ledger.db")]
    assert any(path.name == "mlflow.db" for path in files)
    assert any(path.name == "calls.json" for path in files)
    for path in files:
        _no_secret(path.read_bytes().decode(errors="replace"), path)
    with closing(sqlite3.connect(home / "ledger.db")) as ledger:
        tables = [name for (name,) in ledger.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            rows = ledger.execute(f"SELECT * FROM {table}")
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if (table, column) != ("hpt_studies", "config"):  # it holds what the study needs to go on
                        text = zlib.decompress(value).decode() if isinstance(value, bytes) else str(value)
                        _no_secret(text, (table, column))


def test_nothing_that_is_told_holds_a_secret(
    leaky: tuple[Path, list[JsonObject], ScriptedChatModel],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home, events, chat = leaky
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    _no_secret(json.dumps(events, ensure_ascii=False), "events")
    assert len(chat.prompts) > 2
    for prompt in chat.prompts:
        _no_secret(prompt, "a prompt")
    for verb, *options in [*LOOKING, ["report"]]:
        for form in ([], ["--json"]):
            code, out, err = called(capfd, verb, "leaky", *options, *form, "--home", str(home))
            assert code == 0, err
            _no_secret(out + err, (verb, *options, *form))


def test_an_error_that_ends_a_run_leaves_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "planted-in-a-key")

    def broken(*given: object, **options: object) -> object:
        raise RuntimeError("can't use planted-in-a-key at https://me:planted-userinfo@host")

    monkeypatch.setattr("agentic_hpt.strategies.Joint.plan", broken)
    config = {"study": "s", "metric": "m", "space": SPACE, "strategy": "joint", "executor": "inline"}
    study = Study.create(StudyConfig.from_mapping({**config, "mlflow": {"enabled": False}}), home=home)
    with pytest.raises(RuntimeError):
        study.run(objective=FunctionObjective(lambda params: 1.0))
    assert "***" in str(study.result().error)
    for path in home.rglob("*"):
        if path.is_file():
            _no_secret(path.read_bytes().decode(errors="replace"), path)


def test_half_a_secret_is_not_left_where_a_text_is_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_TOKEN", "0123456789" * 8)

    def failing(error: Exception | None, answer: object = None) -> str:
        def run(params: Mapping[str, object]) -> object:
            if error is not None:
                raise error
            return answer

        job = Job("s", 0, 1, {}, 0, "w", str(tmp_path), str(tmp_path))
        return run_objective(FunctionObjective(run), job, "score", lambda report: False).message

    for before in range(900, 1100, 7):
        text = "y" * before + "0123456789" * 8 + "y" * (1990 - before)
        for error in (RuntimeError(text), TrialFailure("crash", text)):  # type: ignore[arg-type]
            assert "456789" not in mask_secrets(failing(error)).replace("line", "")
    assert "456789" not in mask_secrets(failing(None, "y" * 150 + "0123456789" * 8))


def test_the_last_words_of_a_program_hold_no_half_of_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "0123456789" * 8)
    trial = _Handle(tmp_path)
    for after in (1450, 1490):
        code = f"import os, sys; sys.stderr.write(os.environ['SOME_TOKEN'] + 'y' * {after}); sys.exit(3)"
        objective = CommandObjective([sys.executable, "-c", code], None, ["x"], "score")
        with pytest.raises(TrialFailure) as caught:
            objective.run({"x": 1}, trial)  # type: ignore[arg-type]
        assert "789" not in caught.value.message


class _Handle:
    """What a command needs of its trial."""

    id, seed = 0, 0

    def __init__(self, folder: Path) -> None:
        self.artifact_dir = self.checkpoint_dir = folder
        self.reports: list[Report] = []

    def report(self, metrics: Mapping[str, float], step: int) -> None:
        self.reports.append(Report(step, metrics))


def test_the_doctor_asks_a_server_that_wants_a_password_and_does_not_tell_it(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    asked: list[str | None] = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter%40two@127.0.0.1:{server.server_port}")
        _, out, err = called(capfd, "doctor", "--json", "--home", str(home))
        server.shutdown()
    found = {check["name"]: check for check in json.loads(out)["checks"]}
    assert found["MLflow store"]["ok"], found["MLflow store"]
    assert asked == ["Basic bWU6aHVudGVyQHR3bw=="]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hunter/two@127.0.0.1:1")
    _, more, worse = called(capfd, "doctor", "--home", str(home))
    assert "hunter" not in out + err + more + worse
    assert "no address" in more


def test_the_dashboards_storage_is_not_on_its_command_line(tmp_path: Path, home: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    storage = f"sqlite:///{tmp_path / 'optuna.db'}"
    config = {"study": "shown", "metric": "score", "space": SPACE, "budget": {"trials": 1}, "executor": "inline"}
    config |= {"optuna_storage": storage, "mlflow": {"enabled": False}, "fresh_seeds": 0}
    with Study.create(StudyConfig.from_mapping(config), home=home) as study:
        study.run(objective=FunctionObjective(lambda params: 1.0))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "agentic_hpt.cli", "ui", "shown", "--optuna", "--port", str(port)]
    ui = subprocess.Popen([*command, "--home", str(home)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port)
        lines = [_command_line(pid) for pid in _family(ui.pid)]
        assert any("optuna-dashboard" in line for line in lines)
        assert not [line for line in lines if storage in line]
        bound = {address for pid in _family(ui.pid) for address in _listening(pid)}
        assert bound == {("127.0.0.1", port)}
    finally:
        ui.terminate()
        ui.wait(30)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no server came up")


def _family(pid: int) -> list[int]:
    import psutil

    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def _listening(pid: int) -> list[tuple[str, int]]:
    import psutil

    return [tuple(c.laddr) for c in psutil.Process(pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]


def _command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_what_the_mlflow_writer_logs_is_masked(home: Path) -> None:
    code = (
        "import sys, logging, agentic_hpt.mlflow_writer as w\n"
        "sys.stderr = w._Masked(sys.stderr)\n"
        "logging.basicConfig(stream=sys.stderr)\n"
        "logging.getLogger('mlflow').warning('store %s', 'postgresql://me:hunter2@host/db')\n"
        "sys.stderr.write('postgresql://me:hun'); sys.stderr.flush(); sys.stderr.write('ter2@host/db\\n')\n"
        "raise ValueError('at https://me:hunter2@host')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "hunter" not in done.stderr
    assert done.stderr.count("***@host") == 3


# -- nothing runs that was not asked for ----------------------------------------------------------------------------


class _Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_a_forged_checkpoint_runs_nothing(tmp_path: Path) -> None:
    """LangGraph's own default would call what the checkpoint names: shown here by the control."""
    script = (
        "import sys, ormsgpack\n"
        "from langgraph.checkpoint.serde import jsonplus as j\n"
        "from agentic_hpt.study.serializing import PlainSerializer\n"
        "ours, marker = sys.argv[1] == 'ours', sys.argv[2]\n"
        "serde = PlainSerializer() if ours else j.JsonPlusSerializer()\n"
        "call = ormsgpack.packb(('os', 'mkdir', marker))\n"
        "forged = ormsgpack.packb(ormsgpack.Ext(j.EXT_CONSTRUCTOR_SINGLE_ARG, call))\n"
        "serde.loads_typed(('msgpack', forged))\n"
        "import langgraph.types as t\n"
        "assert serde.loads_typed(serde.dumps_typed(t.Send('tune', {'a': 1}))) == t.Send('tune', {'a': 1})\n"
    )
    quiet = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "false"}
    for which, runs in (("theirs", True), ("ours", False)):
        marker = tmp_path / which
        subprocess.run([sys.executable, "-c", script, which, str(marker)], check=True, env=quiet, capture_output=True)
        assert marker.exists() is runs, which


def test_a_pickled_checkpoint_is_refused(tmp_path: Path) -> None:
    from agentic_hpt.study.serializing import PlainSerializer

    marker = tmp_path / "marker"
    with pytest.raises(NotImplementedError):
        PlainSerializer().loads_typed(("pickle", pickle.dumps(_Bomb(marker))))
    assert not marker.exists()


def test_a_forged_training_checkpoint_or_model_runs_nothing(tmp_path: Path) -> None:
    from agentic_hpt.objectives.torch_checkpoint import Checkpoint

    marker = tmp_path / "marker"
    (tmp_path / "training.pt").write_bytes(pickle.dumps(_Bomb(marker)))
    assert Checkpoint(tmp_path, {}, ()).load() == []
    assert not marker.exists()


_FORBIDDEN = {"eval", "exec", "os.system", "os.popen", "marshal.loads", "shelve.open", "joblib.load", "yaml.load"}
_MAY_UNPICKLE = {"executors/child.py", "executors/warmup.py"}
"""What the driver itself sends to processes that it starts; over a pipe, and by a file in a private folder."""


def test_the_source_calls_nothing_that_runs_what_it_reads() -> None:
    for path in SOURCE.rglob("*.py"):
        name = str(path.relative_to(SOURCE))
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            where = f"{name}:{node.lineno} calls {called}"
            assert called not in _FORBIDDEN, where
            assert options.get("shell", "False") == "False", where
            assert "allow_pickle" not in options, where
            assert options.get("pickle_fallback", "False") == "False", where
            if called.endswith("pickle.load") or called.endswith("pickle.loads"):
                assert name in _MAY_UNPICKLE or name.startswith("executors/ray"), where
            if called == "torch.load":
                assert options.get("weights_only") == "True", where


def test_a_programs_arguments_are_one_each_whatever_a_value_holds(tmp_path: Path) -> None:
    nasty = ["--delete", "$(touch hacked)", "a b; touch hacked", "`touch hacked`", "| touch hacked", "{x}", "\n-x", "*"]
    echo = (
        "import json, sys; open('out', 'w').write(json.dumps(sys.argv[1:])); "
        "print('HPT', json.dumps({{'n': len(sys.argv)}}))"
    )
    objective = CommandObjective([sys.executable, "-c", echo, "{kind}", "--k={kind}"], str(tmp_path), ["kind"], "n")
    for value in nasty:
        assert objective.run({"kind": value}, _Handle(tmp_path)) == {"n": 3}  # type: ignore[arg-type]
        assert json.loads((tmp_path / "out").read_text()) == [value, f"--k={value}"]
    assert not (tmp_path / "hacked").exists()


# -- bombs ----------------------------------------------------------------------------------------------------------


def _laughs(levels: int, of: str = "[{}]") -> str:
    lines = ['a0: &a0 ["ha", "ha"]' if of == "[{}]" else "a0: &a0 {k: v}"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} " + of.format(inner))
    return "\n".join([*lines, f"metric: *a{levels - 1}", "study: x"])


@pytest.mark.parametrize(
    "text",
    [
        _laughs(12),
        _laughs(12, "{{<<: [{}]}}"),
        "metric: " + "[" * 5000 + "]" * 5000,
        "metric: " + "[" * 100 + "]" * 100,
        "a: &a [*a]\nmetric: *a",
        "a: &a {k: *a}\nmetric: *a",
        "seed: 0x" + "f" * 5000,
        "seed: " + "9" * 5000,
        "seed: 1" + ":59" * 2000,
        "x: !!python/object/apply:os.mkdir [hacked]",
        "x: !!python/name:os.system",
        "#" * 3_000_000,
    ],
    ids=[
        "aliases",
        "merges",
        "deep",
        "nested",
        "itself",
        "holds itself",
        "hex",
        "digits",
        "sixties",
        "call",
        "name",
        "big",
    ],
)
def test_a_bomb_in_a_study_file_is_a_clear_error(text: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        StudyConfig.from_file(file)
    assert len(str(caught.value)) < 2000
    assert not Path("hacked").exists()


def test_anchors_in_a_study_file_work_as_ever(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("base: &b {float: [0, 1]}\nspace: {x: *b, y: {<<: *b, default: 0.5}}\n")
    assert read_study_file(file)["space"] == {"x": {"float": [0, 1]}, "y": {"float": [0, 1], "default": 0.5}}


@pytest.mark.parametrize(
    "text",
    [
        "9 ** 9 ** 9 ** x <= 1",
        "x ** 99999999 ** 99999999 <= 1",
        "'a' * 999999999 == x",
        "x.__class__.__mro__ == 1",
        "().__class__ == x",
        "[y for y in x] == 1",
        "(lambda: x)() == 1",
        "__import__('os').mkdir('hacked') == x",
        "f'{x}' == 'a'",
        "x[0] == 1",
        "(x := 3) == 3",
        "-" * 400 + "x <= 1",
        "(" * 200 + "x" + ")" * 200 + " <= 1",
        "x <= " + "9" * 480,
        "not " * 100 + "x <= 1",
        "x <= 1\0",
        "x <= \ud800",
        "log(x, 1) <= exp(exp(exp(99)))",
        "x % 0 <= 1",
    ],
)
def test_a_constraint_can_only_compare(text: str) -> None:
    try:
        condition = Condition.of(text)
    except ConfigError:
        return
    for value in (0.5, 1e308, 0, -1, "a", None, True):
        assert isinstance(condition.margin({"x": value}), float)
    assert not Path("hacked").exists()


@given(
    st.lists(
        st.sampled_from([*"xy0123456789.+-*/%<>=!()[]{},'\"`@:;\\ \n", "and ", "not ", "in ", "log("]), max_size=60
    ).map("".join)
)
def test_any_text_is_a_constraint_or_a_clear_error(text: str) -> None:
    try:
        condition = Condition.of(text)
    except ConfigError:
        return
    assert isinstance(condition.margin({"x": 0.5, "y": "a"}), float)


# -- names and paths ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/x", "..", ".", "a/b", "a\\b", "a\0b", "a' or 1=1 --", "", "\x1b[2J", "a\n"]
)
def test_a_study_name_cannot_leave_the_home(name: str, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError):
        StudyConfig.from_mapping({"study": name, "metric": "m", "space": SPACE})
    for verb in ("trials", "report", "resume", "steer", "ui"):
        rest = ["note"] if verb == "steer" else []
        code, out, err = called(capfd, verb, "--home", str(home), "--", name, *rest)
        assert code == 2
        assert "\x1b" not in out + err
    assert not home.exists()


def test_a_forged_ledger_leads_to_no_other_folder(home: Path) -> None:
    for folder in ("../../etc", "/etc", "..", ".", "a/b", ""):
        with pytest.raises(ConfigError):
            Settings.load(home).artifacts(folder)


@pytest.mark.parametrize("name", ["../x", "a/b", "<b>", "a b", "x'y", "x\x1b[2J", ""])
def test_a_parameter_name_is_a_plain_word(name: str) -> None:
    with pytest.raises(ConfigError):
        StudyConfig.from_mapping({"study": "s", "metric": "m", "space": {name: {"float": [0, 1]}}})


def test_a_home_is_its_owners(home: Path) -> None:
    config = {"study": "s", "metric": "m", "space": SPACE, "mlflow": {"enabled": False}, "executor": "inline"}
    Study.create(StudyConfig.from_mapping(config), home=home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    shared = home.parent / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    Study.create(StudyConfig.from_mapping(config), home=shared)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755  # a person's own word
    assert stat.S_IMODE((shared / "ledger.db").stat().st_mode) == 0o600


# -- text of unknown origin -----------------------------------------------------------------------------------------

NASTY = "<script>alert(1)</script>\x1b[2J\x1b]0;owned\x07\u202e\r\x9b31m{{7*7}}"


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[JsonObject]]:
    """A study in which every text that comes from outside holds markup and a terminal's commands; and its events."""
    home = tmp_path_factory.mktemp("nasty") / "home"
    metric, more = f"score {NASTY}", f"more {NASTY}".replace("\r", "")  # a constraint is one line

    def run(params: Mapping[str, object], trial: TrialHandle) -> object:
        if trial.id % 3 == 1:
            raise RuntimeError(f"failed {NASTY}")
        return {metric: float(str(params["x"])), more: 1.0}

    config = StudyConfig.from_mapping(
        {
            "study": "nasty",
            "metric": metric,
            "space": {**SPACE, "kind": {"choice": [f"a {NASTY}", "b"]}},
            "constraints": [f"`{more}` >= 2"],
            "budget": {"trials": 16},
            "trials_per_round": 6,
            "executor": "inline",
            "mlflow": {"enabled": False},
            "fresh_seeds": 0,
            "description": NASTY,
        }
    )
    spawn = decide("spawn", f"because {NASTY}", worker="joint", parameters=["x", NASTY], trials=2)
    chat = ScriptedChatModel(answers=[spawn, decide("freeze", NASTY, parameter=NASTY), f"no {NASTY}"])
    with Study.create(config, home=home) as study:
        study.steer(f"note {NASTY}")
        events: list[JsonObject] = []
        study.run(objective=FunctionObjective(run), chat_model=chat, listener=events.append)
    return home, events


def test_no_terminal_command_and_no_markup_comes_through(
    nasty: tuple[Path, list[JsonObject]], capfd: pytest.CaptureFixture[str]
) -> None:
    home, events = nasty
    with progress_shown() as shown:
        for event in events:
            shown(event)
    progress = capfd.readouterr().err
    assert "alert(1)" in progress
    assert not [c for c in progress if not c.isprintable() and c != "\n"]
    for verb, *options in [*LOOKING, ["resume"]]:
        for form in ([], ["--json"]):
            _, out, err = called(capfd, verb, "nasty", *options, *form, "--home", str(home))
            strange = {c for c in out + err if not c.isprintable() and c != "\n"}
            assert not strange, (verb, options, form, strange)
    called(capfd, "report", "nasty", "--home", str(home))
    page = next(home.rglob("report.html")).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "49" not in page.split("alert(1)")[1][:60]
    assert not [c for c in page if not c.isprintable() and c != "\n"]


def test_an_error_says_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps({"study": "s", "metric": [NASTY, NASTY], "space": {}, NASTY: 1, "strategy": NASTY}))
    code, out, err = called(capfd, "run", str(file))
    assert code == 2
    assert not [c for c in out + err if not c.isprintable() and c != "\n"]


def test_every_error_of_bad_input_is_ours() -> None:
    for data in (
        {"study": {"a": 1}},
        {"space": [1]},
        {"metric": {"a": 1}},
        {"job": [[]]},
        {"budget": "x"},
        {"ray": "a"},
    ):
        with pytest.raises(HptError):
            StudyConfig.from_mapping({"study": "s", "metric": "m", "space": SPACE, **data})

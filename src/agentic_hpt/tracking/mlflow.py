"""MLflow itself: the only door to it. Blocking; used in the writer process."""

from __future__ import annotations

import importlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentic_hpt.config import mask_data, mask_secrets
from agentic_hpt.errors import HptError, TrackerAway
from agentic_hpt.records import JsonObject, OutboxEntry, Trial
from agentic_hpt.tracking import encoding
from agentic_hpt.tracking.databases import check_files, is_database, prepared

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

_PAGE = 500
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # would also cost two look-ups a run
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# By default MLflow retries for minutes inside one call; the writer retries by itself and must stay able to answer.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}
_REFUSALS = ("INVALID_PARAMETER_VALUE", "MALFORMED_REQUEST")


def behave() -> None:
    """Set the environment so that MLflow is quiet and gives up soon; before it is imported."""
    os.environ.update(_QUIET)
    for name, value in _IMPATIENT.items():
        os.environ.setdefault(name, value)


class EntryRefused(HptError):
    """MLflow will not take this entry, however often it is tried."""


class MlflowStore:
    """One study's runs in MLflow. All methods raise `TrackerAway` when MLflow doesn't answer or can't work now."""

    def __init__(self, *, tracking_uri: str, experiment: str, artifact_root: Path, study: str, uid: str) -> None:
        behave()
        self._uri = tracking_uri
        self._study = study
        self._uid = uid
        self._parent: str | None = None
        with _translating(opening=True), prepared(tracking_uri):
            from mlflow import MlflowClient

            for name in ("mlflow", "alembic"):
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client = MlflowClient(tracking_uri)
            self._experiment = _experiment(self._client, tracking_uri, experiment, artifact_root)

    def write(self, entry: OutboxEntry) -> str:
        """Write one entry and give its run's id; writing it again, marked as claimed, completes what is there.

        Raises `EntryRefused` for an entry that MLflow won't ever take.
        """
        write = {
            "study": self._write_study,
            "trial": self._write_trial,
            "decision": self._write_decision,
            "revision": self._write_revision,
            "change": self._write_change,
            "final": self._write_final,
            "failed": self._write_failed,
        }[entry.kind]
        try:
            with _translating():
                return write(entry)
        except EntryRefused:
            self._check_experiment()
            raise

    def find(self, key: str) -> str | None:
        """Give the id of the run that an entry of this key was written to, if there is one."""
        with _translating():
            found = self._client.search_runs(
                [self._experiment], filter_string=_where(uid=self._uid, key=key), max_results=1
            )
        return found[0].info.run_id if found else None

    def parent(self) -> str | None:
        """Give the id of the study's own run; `None` while it isn't written, or when somebody deleted it."""
        if self._parent is None:
            self._parent = self.find("study")
        return self._parent

    def read_round(self, round_: int) -> list[Trial]:
        """Read a round's finished trials, in order of their ids; reports are left out.

        Only runs that were written to their end count: they are closed last.
        """
        found: list[Trial] = []
        token: str | None = None
        with _translating():
            while True:
                page = self._client.search_runs(
                    [self._experiment],
                    filter_string=_where(uid=self._uid, round=str(round_)),
                    max_results=_PAGE,
                    page_token=token,
                )
                for run in page:
                    if "hpt.trial" in run.data.tags and run.info.status != "RUNNING":
                        found.append(encoding.trial_from_run(run.data.params, run.data.metrics, run.data.tags))
                token = page.token
                if not token:
                    return encoding.newest_attempts(found)

    def _check_experiment(self) -> None:
        """Raise `TrackerAway` when the experiment is gone: MLflow refuses every entry then, but none is at fault."""
        with _translating():
            _check_active(self._client.get_experiment(self._experiment))

    def _run(self, entry: OutboxEntry, name: str, tags: Mapping[str, str], started: int) -> str:
        """Give the entry's run: the one an earlier writer made, else a new one with all its tags."""
        if entry.claimed and (known := self.find(entry.key)) is not None:
            return known
        held = {**tags, "hpt.uid": self._uid, "hpt.key": entry.key, "hpt.kind": entry.kind}
        if entry.kind != "study" and (parent := self.parent()) is not None:
            held["mlflow.parentRunId"] = parent
        run = self._client.create_run(self._experiment, start_time=started, tags=held, run_name=name)
        return cast(str, run.info.run_id)

    def _log(self, run_id: str, params: Mapping[str, str], points: list[encoding.Point]) -> None:
        from mlflow.entities import Metric, Param

        self._client.log_batch(  # splits itself where it would exceed MLflow's limits
            run_id,
            metrics=[Metric(p.key, p.value, p.time, p.step) for p in points],
            params=[Param(key, text) for key, text in params.items()],
        )

    def _write_study(self, entry: OutboxEntry) -> str:
        config = cast(JsonObject, mask_data(entry.payload.get("config") or {}))
        tags = {"hpt.study": self._study, "hpt.version": version("agentic-hpt")}
        self._parent = self._run(entry, self._study, tags, _now())
        self._log(self._parent, encoding.flat(config), [])
        self._client.log_text(self._parent, json.dumps(config, indent=2), "study.json")
        return self._parent

    def _write_trial(self, entry: OutboxEntry) -> str:
        trial = encoding.trial_from_json(entry.payload["trial"])
        started, ended = (int(cast(float, entry.payload[key]) * 1000) for key in ("started", "ended"))
        run_id = self._run(entry, f"trial-{trial.id:04d}", encoding.trial_tags(trial), started)
        params = {encoding.legal_key(name): encoding.param_text(value) for name, value in trial.params.items()}
        self._log(run_id, params, encoding.trial_points(trial, started, ended))
        self._client.set_terminated(run_id, encoding.trial_status(trial), end_time=ended)
        return run_id

    def _write_decision(self, entry: OutboxEntry) -> str:
        decision = cast(JsonObject, mask_data(entry.payload["decision"]))
        calls = cast(list[JsonObject], entry.payload.get("calls") or [])
        actions = cast(list[JsonObject], decision["actions"])
        tags = {
            "hpt.round": str(decision["round"]),
            "hpt.decided_by": str(decision["kind"]),
            "hpt.source": str(decision["source"]),
            "hpt.verdicts": "; ".join(f"{action['type']}: {action['verdict']}" for action in actions),
            **({"hpt.fallback": str(decision["fallback"])} if decision["fallback"] else {}),
            **({"hpt.review": str(review)[: encoding.MESSAGE_LENGTH]} if (review := decision.get("review")) else {}),
            **({"hpt.model": str(calls[-1]["model"])} if calls else {}),
        }
        now = _now()
        seconds = cast(float, decision["seconds"])
        run_id = self._run(entry, f"decision-{decision['round']:02d}", tags, now - int(seconds * 1000))
        figures = {name: float(cast(float, decision[name])) for name in ("tokens", "dollars", "seconds")}
        self._log(run_id, {}, [encoding.Point(name, value, 0, now) for name, value in figures.items()])
        texts = {"decision.json": json.dumps(decision, indent=2), **encoding.call_texts(calls)}
        if evidence := entry.payload.get("evidence"):
            texts["evidence.json"] = json.dumps(evidence, indent=2)
        for name, text in texts.items():
            if text:
                self._client.log_text(run_id, mask_secrets(text), name)
        self._client.set_terminated(run_id, "FINISHED", end_time=now)
        return run_id

    def _write_revision(self, entry: OutboxEntry) -> str:
        run_id, name = self._own_run(entry), entry.key.replace("/", "-")
        told = mask_secrets(str(entry.payload["told"]))
        self._client.set_tag(run_id, f"hpt.{name}", told[: encoding.MESSAGE_LENGTH])
        self._client.log_text(run_id, json.dumps(mask_data(entry.payload), indent=2), f"{name}.json")
        return run_id

    def _write_change(self, entry: OutboxEntry) -> str:
        run_id = self._write_revision(entry)
        if code := entry.payload.get("code"):
            self._client.set_tag(run_id, "hpt.code", str(code))
        if entry.payload.get("reopens"):
            self._client.update_run(run_id, "RUNNING")
        return run_id

    def _own_run(self, entry: OutboxEntry) -> str:
        """Give the study's own run, a new one when it is not there."""
        return self.parent() or self._run(OutboxEntry(entry.id, "study", "study", {}), self._study, {}, _now())

    def _write_final(self, entry: OutboxEntry) -> str:
        payload = entry.payload
        final = cast(JsonObject, payload["final"])
        run_id = self._own_run(entry)
        names = ("mean", "sd", "holdout", "selection_gap", "validation_best", "default_mean", "gain")
        figures = {f"final/{name}": final[name] for name in names if final.get(name) is not None}
        now = _now()
        # A parameter can't be changed in MLflow: where the study had ended before, the winner has another name.
        named = entry.key.replace("final", "best").replace("/", "-")
        params = encoding.flat({named: payload["params"]}) if payload.get("params") else {}
        points = [encoding.Point(name, float(cast(float, value)), 0, now) for name, value in figures.items()]
        self._log(run_id, params, points)
        self._client.set_tag(run_id, "hpt.best_trial", str(final["trial"]))
        problems = [
            problem for file in cast(list[str], payload.get("files") or []) if (problem := self._file(run_id, file))
        ]
        model = cast("JsonObject | None", payload.get("model"))
        if model is not None:
            try:
                self._model(run_id, str(final["trial"]), model, str(payload["register_as"]), str(payload["alias"]))
            except Exception as error:  # a model that can't be exported must not take the figures with it
                problems.append(f"the model was not logged: {type(error).__name__}: {error}")
        if problems:
            text = mask_secrets("; ".join(problems))
            logging.getLogger(__name__).warning("%s", text)
            self._client.set_tag(run_id, "hpt.problem", text[: encoding.MESSAGE_LENGTH])
        self._client.set_terminated(run_id, "FINISHED", end_time=now)
        return run_id

    def _write_failed(self, entry: OutboxEntry) -> str:
        run_id = self._own_run(entry)
        self._client.set_tag(run_id, "hpt.problem", mask_secrets(str(entry.payload["why"]))[: encoding.MESSAGE_LENGTH])
        self._client.set_terminated(run_id, "FAILED", end_time=_now())
        return run_id

    def _file(self, run_id: str, file: str) -> str | None:
        """Log a file, and say what was wrong when it isn't there."""
        if not Path(file).is_file():
            return f"{file} is missing"
        self._client.log_artifact(run_id, file)
        return None

    def _model(self, run_id: str, trial: str, model: JsonObject, name: str, alias: str) -> None:
        """Log, register and alias the final model, unless an earlier writer got so far."""
        own = {"hpt.uid": self._uid, "hpt.trial": trial}
        versions = self._client.search_model_versions(_name_is(name))
        mine = [v for v in versions if all(v.tags.get(tag) == value for tag, value in own.items())]
        if mine:
            number = mine[0].version
        else:
            import mlflow
            import mlflow.pytorch

            folder = str(model["dir"])
            self._client.log_artifacts(run_id, folder, "model-files")
            loader = importlib.import_module(str(model["loader"]))
            mlflow.set_tracking_uri(self._uri)
            # Else the model goes to the default experiment, whose files are in the working directory.
            mlflow.set_experiment(experiment_id=self._experiment)
            with mlflow.start_run(run_id=run_id):
                logged = mlflow.pytorch.log_model(
                    loader.load_model(folder),
                    name="model",
                    input_example=loader.load_example(folder),  # MLflow infers the signature from it and the output
                    serialization_format="pt2",
                    pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in ("torch", "numpy")],
                )
            tags = {**own, "hpt.study": self._study}
            number = mlflow.register_model(logged.model_uri, name, tags=tags).version
        self._client.set_registered_model_alias(name, alias, number)


def _experiment(client: MlflowClient, tracking_uri: str, name: str, artifact_root: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        # A server knows a place for files; a database does not, and MLflow would take the working directory.
        location = artifact_root.absolute().as_uri() if is_database(tracking_uri) else None
        return cast(str, client.create_experiment(name, artifact_location=location))
    if is_database(tracking_uri):
        check_files(found.artifact_location)
    return _check_active(found)


def _check_active(experiment: Experiment) -> str:
    if experiment.lifecycle_stage != "active":
        raise TrackerAway(
            f"the experiment {experiment.name!r} was deleted in MLflow", "restore it, or name another one"
        )
    return cast(str, experiment.experiment_id)


def _where(**tags: str) -> str:
    """Give MLflow's filter for runs with these `hpt.` tags."""
    if any("'" in value for value in tags.values()):
        raise ValueError(f"a quote in {tags}")
    return " and ".join(f"tags.`hpt.{name}` = '{value}'" for name, value in tags.items())


def _name_is(name: str) -> str:
    if "'" in name:
        raise ValueError(f"a quote in {name!r}")
    return f"name = '{name}'"


def _now() -> int:
    return int(time.time() * 1000)


@contextmanager
def _translating(opening: bool = False) -> Iterator[None]:
    """Turn MLflow's errors into two: try again later, or never. What can't be opened is always tried again."""
    try:
        yield
    except HptError:
        raise
    except Exception as error:
        text = mask_secrets(str(error))[: encoding.MESSAGE_LENGTH] or type(error).__name__
        code = getattr(error, "error_code", None)
        # What a database can't hold (a text that is too long, say) MLflow calls by the same code as a lost connection.
        unfit = type(error.__cause__).__name__ == "DataError"
        away = code is not None and code not in _REFUSALS and not unfit
        if opening or isinstance(error, OSError) or away:
            raise TrackerAway(text) from error
        raise EntryRefused(f"{type(error).__name__}: {text}") from error

"""Sweeps: what is refused before anything runs, shares, search and pruning, and a killed sweep that is continued."""

import csv
import itertools
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from naturel_jax import config as c
from naturel_jax import storage
from naturel_jax.benchmarks import rules
from naturel_jax.benchmarks.benchmark import Benchmark, Image, Item, Metric
from naturel_jax.checkpoints import checkpoint
from naturel_jax.checkpoints.finished import Finished
from naturel_jax.cli.sweeps import grids, runs, search, table
from naturel_jax.cli.sweeps.grids import Grid
from naturel_jax.devices import machine, processes
from naturel_jax.evaluators import results, scoring
from naturel_jax.training import run_folder
from tests.helpers import tiny_config
from tests.helpers.processes import wait_until
from tests.helpers.worlds import ROOT, compiled_once, data_dir
from tfds_naturel.common.errors import UserError

RATES_TWICE, RANGE = "--grid=config.optim.lr=1e-4,3e-4", "--grid=config.optim.lr=1e-5..1e-3"
SEARCH = ["--search=random", "--trials=2"]
PRUNE = [RANGE, *SEARCH, "--prune"]
REFUSED = {  # flags -> message
    ("--grid=config.optim.lrr=1",): "--grid config.optim.lrr: the config has no field 'optim.lrr'; did you mean",
    ("--grid=config.optim.lr=1e-4,fast",): "config.optim.lr is 'fast'; expected a number above 0",
    ("--grid=config.optim.lr=-1",): "config.optim.lr is -1.0; expected a number above 0",
    ("--grid=config.objective.terms={'own_foils': {'form': 'focal', 'weight': -1.0}},{}",): "own_foils.weight is -1.0",
    ('--grid=config.optim.lr_multipliers=(("text/.*",-2.0),),()',): "lr_multipliers is (('text/.*', -2.0),); expected",
    ("--grid=config.optim.lr=",): "--grid config.optim.lr=: a value is empty",
    ("--grid=1e-4,3e-4",): "expected config.FIELD=VALUE,VALUE",
    ("--grid=config.optim.lr=1e-4,0.0001",): "runs lr=1e-4_seed=0 and lr=0.0001_seed=0 of the sweep are the same",
    (RANGE,): "which only a search draws from; add --search",
    ("--grid=config.optim.lr=0..1:log",): "LOW below HIGH, and above 0 with :log",
    ("--grid=config.seed=1,2",): "seeds are not settings; write --seeds",
    ("--seeds=0",): "--seeds 0: expected a number of seeds",
    ("--seeds=3,3",): "--seeds 3,3: expected a number of seeds",
    (RATES_TWICE, "--baseline=lr=1e4"): "--baseline 'lr=1e4' is not a setting of the sweep; did you mean 'lr=1e-4'?",
    ("--score=naturel/complx",): "'naturel/complx' is not a score of these runs; did you mean 'naturel/complex'?",
    ("--grid=config.bases.base.optim.lr=1e-4,1e-3",): "differ in config.bases.base, which the runs of a sweep share",
    (RANGE, *SEARCH): "--search needs --score",
    ("--trials=2",): "give both, or none of them",
    (*PRUNE, "--score=naturel/simple", "--config.eval.during.naturel=0 steps"): "--prune: config.eval.during",
    (*PRUNE, "--score=naturel/complex/mirrored/yes"): "not recorded during training; did you mean 'naturel/complex'",
    ("--share=4/4",): "--share 4/4: expected INDEX/COUNT with an INDEX from 0 to COUNT - 1",
    ("--jobs=0",): "--jobs is 0, expected 1 to 1,024",
}
REFUSE = """
import json, os, sys
from naturel_jax import sweep
from naturel_jax.cli.sweeps import work
from tfds_naturel.common import cli
for arguments in json.load(sys.stdin):
    if (child := os.fork()) == 0:  # flags can be parsed once in a process
        cli.run(sweep.main, arguments)
    print(f"exit code {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", file=sys.stderr, flush=True)
"""
CONFIG = f"--config={ROOT}/tests/helpers/sweep_config.py:"


def test_mistakes_are_refused_before_anything_runs(tmp_path):
    data = data_dir()
    (paper := tmp_path / "paper").mkdir()
    (paper / "runs.csv").write_text("mine")
    refused = REFUSED | {(f"--out={paper}",): "paper has no runs of this sweep, but runs.csv, which a report would"}
    lines = [[f"{CONFIG}{data}", f"--out={tmp_path / 'out'}", *flags] for flags in refused]
    command = [sys.executable, "-W", "ignore", "-c", REFUSE]
    done = subprocess.run(command, input=json.dumps(lines), cwd=ROOT, capture_output=True, text=True)
    answers = [part.strip() for part in done.stderr.split("exit code 2\n")]
    assert len(answers) == len(refused) + 1 and not answers[-1], done.stderr[-3000:]
    for (flags, expected), answer in zip(refused.items(), answers, strict=False):
        assert expected in answer.splitlines()[-1], f"{flags}: {answer}"
    assert not (tmp_path / "out").exists() and [path.name for path in paper.iterdir()] == ["runs.csv"]


def grid_of(values: dict[str, grids.Values], seeds: tuple[int, ...] = (0,)) -> Grid:
    raw = tiny_config.get_config()
    raw.wandb = "project"
    return Grid(raw, ["--config=tiny.py"], values, seeds, "rates")


def test_rows_of_a_suite_keep_their_order():
    rows = {name: tiny_config.get_config() for name in ("siglip", "clip", "negclip")}
    for name, row in rows.items():
        row.name = name
    grid = Grid(c.suite(rows), ["--config=suite.py"], {}, (0, 1), "rows")
    assert [run.group for run in grid.runs({})] == [*rows, *rows]


def test_points_of_the_grid_with_each_seed():
    """Folders, rows, what W&B groups, and the command that trains a run again."""
    grid: dict[str, grids.Values] = {"config.optim.lr": ("1e-4", "3e-4"), "config.data.crop_scale": ("(0.8, 1.0)",)}
    one = grid_of(grid, (3, 7))
    planned = [run for setting in grids.settings(one) for run in one.runs(setting)]
    assert [run.key for run in planned[:2]] == [
        "lr=1e-4_crop_scale=_0.8_1.0__seed=3",
        "lr=1e-4_crop_scale=_0.8_1.0__seed=7",
    ]
    assert {run.group for run in planned} == {f"lr={lr}, crop_scale=(0.8, 1.0)" for lr in ("1e-4", "3e-4")}
    last = planned[-1]
    assert (last.config.optim.lr, last.config.data.crop_scale, last.config.seed) == (3e-4, (0.8, 1.0), 7)
    assert last.config.wandb_group == "rates: lr=3e-4, crop_scale=(0.8, 1.0)"
    assert last.command == (
        "naturel-train --config=tiny.py --config.optim.lr=3e-4 '--config.data.crop_scale=(0.8, 1.0)' --config.seed=7 "
        "--workdir runs/again"
    )


def test_a_setting_too_long_for_the_name_of_a_folder_has_one_of_its_own():
    many = '("image/.*", 0.5), ' * 20
    one = grid_of({"config.optim.lr_multipliers": tuple(f'({many}("text/.*", {rate}))' for rate in (0.1, 0.2))})
    keys = [run.key for setting in grids.settings(one) for run in one.runs(setting)]
    assert len({*keys}) == 2 and all(key.startswith("lr_multipliers=_image") and len(key) <= 255 for key in keys)


def test_shares_of_clusters():
    slurm = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "4", "SLURM_ARRAY_TASK_COUNT": "10"}
    assert processes.parse_share("", slurm) == processes.Share(3, 10)
    assert processes.parse_share("", {}) == processes.Share(0, 1)
    every_second = slurm | {"SLURM_ARRAY_TASK_STEP": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    assert processes.parse_share("", every_second) == processes.Share(1, 4)
    with pytest.raises(UserError, match=r"add --share INDEX/COUNT"):
        processes.parse_share("", {"SLURM_ARRAY_TASK_ID": "7"})
    assert processes.parse_share("2/8", slurm | {"JOB_COMPLETION_INDEX": "2"}) == processes.Share(2, 8)
    with pytest.raises(UserError, match=r"add --share \$JOB_COMPLETION_INDEX/COMPLETIONS"):
        processes.parse_share("", {"JOB_COMPLETION_INDEX": "2"})


def test_runs_at_once_have_gpus_of_their_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in runs.environments(2)] == ["4,6", "5"]
    with pytest.raises(UserError, match="--jobs 4: there are 3 GPUs"):
        runs.environments(4)


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_gpus_stay_hidden(hidden, monkeypatch):
    monkeypatch.setattr(runs.glob, "glob", lambda pattern: ["a", "b"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert runs.environments(2) == [{}, {}]


RATES: dict[str, grids.Values] = {"config.optim.lr": grids.Range(1e-5, 1e-1, True, False)}


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the runs that a stub of training has trained: their scores rise to 0.01 over the rate."""
    names: list[str] = []

    def train(config, folder, watch):
        names.append(epath.Path(folder).name)
        epath.Path(folder).mkdir(parents=True, exist_ok=True)
        for step in (10, 20):
            scores = dict.fromkeys(("naturel/complex", "mine/ties"), step / 20 * min(1.0, 1e-5 / config.optim.lr))
            with (epath.Path(folder) / "metrics.jsonl").open("a") as file:
                file.write(storage.sealed({"step": step, **scores}) + "\n")
            watch(step, scores)
        run_folder.write_finished(epath.Path(folder), config, Finished(scores, {}, {}, {}, {}))

    monkeypatch.setattr(runs, "run", train)
    return names


@pytest.mark.parametrize(
    ("method", "score"), [("random", "naturel/complex"), ("bayes", "naturel/complex"), ("bayes", "mine/ties")]
)
def test_search_continues_as_if_it_had_not_been_interrupted(method, score, tmp_path, trained):
    """And another process than the first may continue it, with more trials."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    made = search.Search(grid_of(RATES), method, 14, score, False)
    search.train(made, whole, processes.Share())
    for trials in (3, 13, 14):
        search.train(made._replace(trials=trials), parts, processes.Share())
    settings = search.settings(made, whole)
    assert settings == search.settings(made, parts) and len(settings) == 14
    rates = [float(setting["config.optim.lr"]) for setting in settings]
    assert all(1e-5 <= rate <= 1e-1 for rate in rates) and len(set(rates)) > 10
    if method == "bayes":  # the highest scores are at the lowest rates, which it has learned after ten trials
        first, rest = sorted(rates[:10]), rates[10:]
        assert min(rest) > first[4] if score == "mine/ties" else max(rest) < first[5]


def test_runs_below_the_median_are_pruned_and_marked(tmp_path, trained):
    made = search.Search(grid_of(RATES, (0, 1)), "random", 10, "naturel/complex", True)
    search.train(made, tmp_path, processes.Share())
    states = {run.key: runs.state(run, tmp_path) for s in search.settings(made, tmp_path) for run in made.grid.runs(s)}
    pruned = [key for key, state in states.items() if state == "pruned at step 10"]
    assert pruned and all(key.endswith("seed=0") for key in pruned)
    others = {states[key.replace("seed=0", "seed=1")] for key in pruned}
    assert others == {"not finished"}, "their other seed is not trained"
    before = len(trained)
    search.train(made, tmp_path, processes.Share())
    assert not [name for name in trained[before:] if name in pruned], "a pruned run is not trained again"


def test_another_search_in_the_folder_is_refused_once_a_trial_has_begun(tmp_path, trained):
    made = search.Search(grid_of(RATES), "random", 2, "naturel/complex", False)
    other = made._replace(score="naturel/simple")
    for one in (other, made):
        search.check_same(one, tmp_path)
    search.train(made, tmp_path, processes.Share())
    search.check_same(made._replace(trials=5), tmp_path)
    different = r"search\.json: score was naturel/complex, is naturel/simple; use another --out"
    with pytest.raises(UserError, match=different):
        search.check_same(other, tmp_path)
    with pytest.raises(UserError, match=different):  # a process that had found no trial
        search.train(other, tmp_path, processes.Share())
    (tmp_path / "search.json").write_text(storage.sealed({}))
    with pytest.raises(UserError, match=r"search\.json: grid was None"):
        search.check_same(made, tmp_path)


@pytest.mark.parametrize(
    "trial",
    [
        {"config.optim.lr": "9"},
        {"config.optim.lr": "0.0012345"},
        {"config.optim.lr": 0.001},
        {"config.optim.lr": "0.001", "config.init": "hf:another/model"},
        {},
    ],
)
def test_trial_that_the_search_does_not_draw_is_refused(trial, tmp_path, trained):
    made = search.Search(grid_of(RATES), "random", 1, "naturel/complex", False)
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials/0000.json").write_text(storage.sealed(trial))
    with pytest.raises(UserError, match=r"trials/0000\.json: .*; remove the file, and the trial is drawn again"):
        search.train(made, tmp_path, processes.Share())
    assert not trained


def test_failed_run_does_not_end_the_sweep(tmp_path, monkeypatch):
    one = grid_of({"config.optim.lr": ("1e-4", "1e-3")})
    planned = [run for setting in grids.settings(one) for run in one.runs(setting)]

    def train(config, folder, watch):
        raise UserError("step 7: loss nan")

    monkeypatch.setattr(runs, "run", train)
    (tmp_path / planned[0].key).mkdir()
    runs.train(planned[0], tmp_path)
    assert runs.failures(planned, tmp_path) == ["lr=1e-4_seed=0 failed: step 7: loss nan"]


def test_run_that_another_process_has_taken_over_has_not_failed(tmp_path, monkeypatch):
    one = grid_of({"config.optim.lr": ("1e-4", "1e-3")})
    planned = one.runs(next(grids.settings(one)))[0]

    def train(config, folder, watch):
        with storage.lease(folder):
            storage.write(folder / "lease.json", "{}")  # the other's
            storage.append(folder / "metrics.jsonl", "{}\n")

    monkeypatch.setattr(runs, "run", train)
    (tmp_path / planned.key).mkdir()
    runs.train(planned, tmp_path)
    assert runs.state(planned, tmp_path) == "not finished"


def test_report_marks_the_best_and_items_that_were_trained_on(tmp_path):
    """A benchmark of one's own, two seeds of each rate; ten of its items were trained on."""
    items = tuple(Item(str(n), (Image(f"image {n}", bytes),), ("yes", "no")) for n in range(400))
    mine = Benchmark("mine", items, rules.pair, (Metric("mine/accuracy", "right"),), chance=rules.PAIR)
    right = {"1e-4": (118, 122), "3e-4": (240, 240), "1e-3": (241, 241)}  # of 400
    one = grid_of({"config.optim.lr": tuple(right)}, (0, 1))
    planned = [run for setting in grids.settings(one) for run in one.runs(setting)]
    for run, number in zip(planned, itertools.chain(*right.values()), strict=True):
        matrices, folder = [np.array([[0.2, 0.1 if n < number else 0.3]]) for n in range(400)], tmp_path / run.key
        held_out = mine.held_out({str(n) for n in range(10)})
        result = scoring.save(folder / results.FOLDER, run.config.name, held_out, "f", (items, matrices, []), {})
        scores = {name: score["value"] for name, score in result.scores.items()}
        run_folder.write_config(epath.Path(folder), run.config)
        run_folder.write_finished(epath.Path(folder), run.config, Finished(scores, {}, {}, {}, {}))
    text = table.write(tmp_path, planned, "mine/accuracy", "lr=1e-4").partition("\n## ")[0]
    rows = {line.split("|")[1].strip(): line.split("|")[2] for line in text.splitlines() if line.startswith("|")}
    assert {name for name, cell in rows.items() if "**" in cell} == {"lr=3e-4", "lr=1e-3"}
    assert "0.28" in rows["lr=1e-4"] and rows["*chance*"].strip() == "0.50"
    with (tmp_path / "scores.csv").open() as file:
        whole = {row["model"]: row["with_trained_on"] for row in csv.DictReader(file)}
    assert whole["lr=1e-4"] == "0.3" and whole["lr=3e-4"] == "0.6"


# ---- Real runs ------------------------------------------------------------------------------------------------------


def start(out: Path, *flags: str) -> subprocess.Popen:
    """A sweep of ``sweep_config``, whose grid and seeds are those of its ``sweep()``."""
    command = [sys.executable, "-m", "naturel_jax.sweep", f"{CONFIG}{data_dir()}", f"--out={out}", *flags]
    with open(out.with_suffix(".log"), "a") as file:
        return subprocess.Popen(command, cwd=ROOT, env=os.environ | compiled_once(), stdout=file, stderr=file)


@pytest.mark.slow
def test_killed_sweep_has_the_table_of_an_uninterrupted_one(tmp_path):
    """The killed one trains two runs at once, which share a base; the other one after another."""
    names = ["--baseline=lr=0.0001", "--score=naturel/complex"]
    whole, killed, seed = tmp_path / "whole", tmp_path / "killed", random.randrange(1 << 32)
    draw = random.Random(seed)
    print(f"seed {seed}")  # pytest shows it if the test fails
    assert start(whole, *names).wait(600) == 0, whole.with_suffix(".log").read_text()[-3000:]
    process = start(killed, *names, "--jobs=2")
    begun = draw.choice(("base/metrics.jsonl", "base/scores.json", "*seed=?/metrics.jsonl", "*seed=?/scores.json"))
    wait_until(lambda: process.poll() is not None or [*killed.glob(begun)], 600)
    time.sleep(draw.uniform(0, 2))
    process.kill()
    process.wait()
    assert start(killed, *names, "--jobs=2").wait(600) == 0, killed.with_suffix(".log").read_text()[-3000:]
    for name in ("report.md", "scores.csv", "differences.csv", "runs.csv"):
        text = (killed / name).read_text().replace("# Sweep killed:", "# Sweep whole:")
        assert text == (whole / name).read_text(), name
    with (whole / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == [f"lr={lr}_seed={seed}" for lr in ("0.0001", "0.01") for seed in (0, 1)]
    assert {row["state"] for row in rows} == {"finished"}
    with (whole / "scores.csv").open() as file:
        table = {(row["model"], row["metric"]): float(row["value"]) for row in csv.DictReader(file)}
    for setting in ("lr=0.0001", "lr=0.01"):
        of_seeds = [float(row["naturel/complex"]) for row in rows if row["setting"] == setting]
        assert table[setting, "naturel/complex"] == pytest.approx(sum(of_seeds) / 2)
    by = f"5 runs trained by naturel_jax {machine.describe()['code']}; {machine.processor()}; accelerators: none\n"
    assert by in whole.with_suffix(".log").read_text(), "four and their base"
    text = (whole / "report.md").read_text()
    assert "Means of 2 seeds." in text and "## Differences from lr=0.0001" in text and "naturel-train --config" in text


@pytest.mark.proof
def test_pruned_run_stops_cleanly(tmp_path, quick_compilation):
    raw = tiny_config.get_config()
    raw.data.dir = os.fspath(data_dir())
    (planned,) = Grid(raw, (), {}, (0,), "one").runs({})

    def watch(step, scores):
        if step == 10:
            raise runs.Pruned(step, scores["naturel/complex"])

    runs.train(planned, tmp_path, watch)
    folder = tmp_path / "seed=0"
    assert runs.state(planned, tmp_path) == "pruned at step 10" and not (folder / "lease.json").exists()
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 10
    runs.train(planned, tmp_path, lambda *_: pytest.fail("a pruned run was trained again"))
    assert checkpoint.saved_steps(epath.Path(folder)) == [5, 10], "with its checkpoints"

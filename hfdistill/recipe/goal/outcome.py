"""What a search for a student found: the winner in a folder with report and card, and what would help."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hfdistill.evaluation.models import Contender
from hfdistill.evaluation.nothing_to_teach import bounded_by_teacher
from hfdistill.evaluation.plots import write_plots
from hfdistill.evaluation.plots.trials import Trial, write_trials
from hfdistill.evaluation.report import TITLES, Report, counted, in_columns, show
from hfdistill.exporters.gate import export
from hfdistill.exporters.report import ExportReport
from hfdistill.files.markdown import as_yaml
from hfdistill.files.plain_data import as_read_back, read_json, whole_folder, write_atomically, write_json
from hfdistill.files.wording import worded
from hfdistill.network.loading import load_classifier, load_tokenizer
from hfdistill.recipe.goal.candidates import Candidate
from hfdistill.recipe.goal.evidence import Evidence
from hfdistill.recipe.goal.sizing import MAX_BYTES, Size, Sizes
from hfdistill.recipe.goal.target import LEARNING_RATE, Goal
from hfdistill.recipe.goal.trials import Judge, Look, Trials
from hfdistill.recipe.outcome import measured, write_card_of
from hfdistill.recipe.rows import Rows
from hfdistill.recipe.run import Run

NO_GATE = 200.0
"""Points that an export may lose: in 8 bits, too, the student was judged before it was chosen."""
ENOUGH_ROWS = 5_000
Verdict = Literal["kept", "likely", "missed"]


@dataclass(frozen=True)
class Tried:
    """A candidate with all that is known of it.

    Args:
        candidate: which.
        sizes: what each way to run it costs.
        size: the way that meets the limits; None where none does.
        looks: what it kept at the end of each rung that it took part in.
    """

    candidate: Candidate
    sizes: Sizes
    size: Size | None
    looks: tuple[Look, ...] = ()

    @property
    def evidence(self) -> Evidence:
        """What it kept when it was last looked at."""
        return self.looks[-1].evidence


@dataclass(frozen=True)
class Choice:
    """The candidate that was chosen, and why.

    Args:
        tried: it.
        look: as it was then: training may have done it harm since.
        verdict: "kept" where the whole interval lies at the goal or above, "likely" where its middle does,
            else "missed".
    """

    tried: Tried
    look: Look
    verdict: Verdict

    @classmethod
    def best(cls, tried: Iterable[Tried], share: float) -> Choice:
        """Choose where nothing is proven, among all looks at all candidates.

        Where some lie at the goal, the likeliest to lie there: the same distance tells more within a narrow
        interval. Else the one that keeps most. Of equal ones the later look.

        Args:
            tried: what was looked at, at least one.
            share: what must be kept.
        """
        every = [(each, look) for each in tried for look in each.looks]
        likely = [pair for pair in every if pair[1].evidence.kept >= share]
        if not likely:
            each, look = max(every, key=lambda pair: (pair[1].evidence.kept, pair[1].rung))
            return cls(each, look, "missed")
        each, look = max(
            likely,
            key=lambda pair: ((pair[1].evidence.kept - share) / pair[1].evidence.half, pair[1].rung),
        )
        return cls(each, look, "likely")


@dataclass(frozen=True)
class FitResult:
    """The student that was found for a goal.

    Args:
        student: its folder.
        onnx: the folder of its ONNX files, where it runs in one of these; else None.
        name: which candidate it is, such as "3 layers".
        verdict: "kept", "likely" or "missed", on the rows to choose on.
        evidence: how much it keeps of the teacher there.
        reported: share of the teacher's metric that it keeps on the rows that nothing was chosen on; None
            where these have no labels for it.
        report: what it is worth on these rows.
        tried: every candidate that was measured.
        advice: what is missing, and what would help; empty where the goal is met.
        summary: what was found, in lines.
    """

    student: Path
    onnx: Path | None
    name: str
    verdict: Verdict
    evidence: Evidence
    reported: float | None
    report: Report
    tried: tuple[Tried, ...]
    advice: tuple[str, ...]
    summary: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(in_columns([*self.summary, *map(worded, self.advice)]))


@dataclass
class Outcome:
    """Puts the winner in its folder, measures it on rows that nothing was chosen on, and describes it."""

    run: Run
    goal: Goal
    trials: Trials
    choice: Choice
    tried: tuple[Tried, ...]
    rows: Rows
    teacher: Contender

    def __post_init__(self) -> None:
        self.out = Path(self.run.args.output_dir)
        self.folder = self.out / "student"
        self.look = self.choice.look
        self.metric = self.trials.judge.metric

    def result(self) -> FitResult:
        """Write everything, and return it."""
        rows_shown = counted(len(self.rows.evaluation), "row")
        self.run.terminal.heading(f"measure: {rows_shown} that nothing was chosen on")
        history = self._save_student()
        write_atomically(self.out / "best.yaml", as_yaml(self._page()))
        teacher, rows = self.teacher, self.rows.evaluation
        report = measured(self.run, self.folder, rows, notes=self._notes(), teacher=teacher)
        exported = self._exported()
        reported = self._reported(report, exported)
        advice = tuple(self._advice(report))
        summary = tuple(self._summary(report, exported, reported))
        report = replace(report, notes={**report.notes, "found": list(summary)})
        report.save(self.folder / "report.json")
        write_plots(self.folder, report, history=history)
        points = [self._point(tried) for tried in self.tried]
        goal, metric = 100 * self.goal.share, TITLES.get(self.metric, self.metric)
        write_trials(self.folder, points, goal=goal, max_ms=self.goal.max_ms, metric=metric)
        name, base = self.out.absolute().name, str(self.run.origin)
        write_card_of(self.run, self.folder, report, base_model=base, name=name, origin=self._origin())
        for tried in self.tried:
            self.trials.forget(tried.candidate)
        return FitResult(
            student=self.folder,
            onnx=self.out / "onnx" if exported else None,
            name=self.choice.tried.candidate.name,
            verdict=self.choice.verdict,
            evidence=self.look.evidence,
            reported=reported,
            report=report,
            tried=self.tried,
            advice=advice,
            summary=summary,
        )

    def _save_student(self) -> list[dict[str, Any]]:
        """Copy the winner as a plain model, whole or not at all; return the log of its training.

        A search that is started again when it has ended finds its student there.
        """
        winner = {"candidate": self.choice.tried.candidate.name, "look": dataclasses.asdict(self.look)}
        note = self.out / "goal" / "chosen.json"
        before = read_json(note, limit=100 * MAX_BYTES) if note.is_file() and self.folder.is_dir() else {}
        if {name: before.get(name) for name in winner} == as_read_back(winner):
            return list(before["history"])
        note.unlink(missing_ok=True)
        source = self.trials.student(self.choice.tried.candidate, self.look)
        with whole_folder(self.folder) as staged:
            load_classifier(str(source), role="student").save_pretrained(staged)
            load_tokenizer(source).save_pretrained(staged)
        state = source / "trainer_state.json"
        history = list(read_json(state, limit=100 * MAX_BYTES)["log_history"]) if state.is_file() else []
        write_json(note, {**winner, "history": history})
        return history

    def _page(self) -> dict[str, Any]:
        """Return a page that trains this student alone."""
        candidate = self.choice.tried.candidate
        fit = {"fit": self.goal.texts} if candidate.fits else {}
        student: dict[str, Any] = {candidate.plan.kind: {**candidate.plan.arguments, **fit}}
        if self.look.pruned:
            student["prune_vocabulary"] = {"keep": self.trials.tokens}
        page = {name: value for name, value in self.run.recipe.page.items() if name != "goal"}
        rate = page["training"].get("learning_rate", LEARNING_RATE) * candidate.training["rate"]
        own = {"num_train_epochs": self.trials.epochs(candidate), "learning_rate": rate}
        own["output_dir"] = str(self.out / "best")  # beside what was found, not over it
        return {**page, "student": student, "training": {**page["training"], **own}}

    def _notes(self) -> dict[str, Any]:
        goal = {name: value for name, value in dataclasses.asdict(self.goal).items() if value is not None}
        return {
            "objective": str(self.run.recipe.objective),
            "goal": goal,
            "chosen": self.choice.tried.candidate.name,
            "epochs": self.look.epochs,
            "recipe": self._page(),
            "rows": len(self.run.rows.train),
            "seed": self.run.args.seed,
        }

    def _exported(self) -> ExportReport | None:
        """Write the winner as ONNX where it runs so, or where the page asks for it."""
        asked = self.run.recipe.export
        if self.look.form == "pytorch" and asked is None:
            return None
        options = {"max_length": self.run.args.max_length, **(asked or {})}
        if self.look.form != "pytorch":
            options |= {"int8": "dynamic" if self.look.form == "int8" else None, "max_drop": NO_GATE}
            options["engine"] = "onnx"  # in which it was measured
        return export(
            str(self.folder), self.out / "onnx", data=self.rows.evaluation, teacher=self.teacher, **options
        )

    def _reported(self, report: Report, exported: ExportReport | None) -> float | None:
        """Return what the student keeps of the teacher on the rows that are reported, as it is to run."""
        form = self.look.form
        if exported is not None and form != "pytorch":
            if self.metric == "agreement":
                return exported.of(form).teacher_agreement
            if self.metric != exported.metric:
                return self._judged()
            own, theirs = exported.of(form).quality, exported.of("teacher").quality
        elif self.metric == "agreement":
            return (report.student.fidelity or {}).get("agreement")
        else:
            own, theirs = (
                (model.metrics or {}).get(self.metric) if model is not None else None
                for model in (report.student, report.teacher)
            )
        return own / theirs if own is not None and theirs else None

    def _judged(self) -> float | None:
        """Return what the student keeps on the rows that are reported by a metric that an export has not."""
        length = self.run.args.max_length
        try:
            judge = Judge(self.rows.evaluation, self.teacher, self.goal, max_length=length)
        except ValueError:  # these rows have no labels
            return None
        if judge.metric != self.metric:
            return None
        return judge.evidence(self.folder, self.look.form).kept

    def _summary(
        self, report: Report, exported: ExportReport | None, reported: float | None
    ) -> Iterator[str]:
        """Yield the sentences that say what was found."""
        chosen, goal, seen = self.choice.tried, self.goal, self.look.evidence
        metric = TITLES.get(self.metric, self.metric)
        verdict = {
            "kept": f"keeps {100 * goal.share:g} % of the teacher's {metric}, proven",
            "likely": f"keeps {100 * goal.share:g} % of the teacher's {metric}, likely but not proven",
            "missed": f"the best found; it misses {100 * goal.share:g} % of the teacher's {metric}",
        }[self.choice.verdict]
        untrained = "fitted and not trained" if chosen.candidate.fits else "not trained"
        trained = f"after {counted(self.look.epochs, 'epoch')}" if self.look.epochs else untrained
        whole = ", which is the whole teacher" if chosen.candidate.is_whole else ""
        yield f"{chosen.candidate.name} ({chosen.size}){whole}, {trained}: {verdict}."
        yield (
            f"Chosen on {counted(seen.rows, 'row')}: {metric} {show(seen.quality, self.metric)}, {seen} of "
            "the teacher's; the interval allows for all that was tried."
        )
        if reported is not None:
            rows = counted(len(self.rows.evaluation), "row")
            less = self.choice.verdict != "missed" and reported < goal.share
            yield (
                f"On {rows} that nothing was chosen on it keeps {100 * reported:.1f} %"
                f"{f', less than the {100 * goal.share:g} % asked for' if less else ''}"
                f"{self._costs(report, exported)}."
            )
        yield self._effort()
        where = f"{self.out / 'onnx'} (ONNX) and {self.folder}" if exported else str(self.folder)
        yield f"It is in {where}, with report and card; {self.out / 'best.yaml'} trains it alone."

    def _effort(self) -> str:
        """Return how many candidates took part, and how long it took."""
        inside = sum(tried.size is not None for tried in self.tried)
        looked = sum(bool(tried.looks) for tried in self.tried)
        trained = sum(any(look.epochs for look in tried.looks) for tried in self.tried)
        seconds = sum(look.seconds for tried in self.tried for look in tried.looks)
        return (
            f"Candidates: {len(self.tried)}, of which {inside} within {self.goal.limits()}, {looked} tried "
            f"and {trained} trained, {seconds:.0f} s in all trials."
        )

    def _costs(self, report: Report, exported: ExportReport | None) -> str:
        """Return the time per row, where it was measured: ", in 3.1 ms a row"."""
        timed = report.student.speed
        if exported is not None and self.look.form != "pytorch":
            timed = exported.of(self.look.form).speed
        if timed is None:
            return ""
        shown = f", in {timed.latency_ms_p50:.1f} ms a row"
        if self.goal.is_fast(timed.latency_ms_p50):
            return shown
        return f"{shown} where {self.goal.max_ms:g} were asked for: is this machine busy?"

    def _advice(self, report: Report) -> Iterator[str]:
        """Yield sentences on what is missing where the goal is not proven, and what would help."""
        seen, goal = self.look.evidence, self.goal
        if self.choice.verdict == "likely":
            margin = max(seen.kept - goal.share, 1e-4)
            rows = math.ceil(seen.rows * (seen.half / margin) ** 2)
            much = f"some {rows:,} rows" if rows < 1e6 else "far more rows than there are"
            yield f"To prove it: choose on {much} instead of {seen.rows:,} (more labels, a larger share)."
        if self.choice.verdict != "missed":
            return
        yield f"Missing: {100 * (goal.share - seen.kept):.1f} points of what the teacher keeps."
        kept = [look.evidence.kept for look in self.choice.tried.looks]
        if self.look == self.choice.tried.looks[-1] and len(kept) > 1 and kept[-1] - kept[-2] > 0.005:
            yield "Longer training: it was still gaining from rung to rung. Type more epochs."
        larger = [tried for tried in self.tried if tried.size is None and tried.candidate.is_cut]
        if larger:
            nearest = min(larger, key=lambda tried: tried.sizes.measured[0].ms or math.inf)
            takes = f"{nearest.candidate.name} takes {nearest.sizes.nearest()}"
            yield f"More layers: {takes}, beyond {goal.limits()}."
        if len(self.run.rows.train) < ENOUGH_ROWS:
            yield (
                f"More text: it learned from {len(self.run.rows.train):,} rows. Texts like them need no "
                "labels (`unlabelled:` under `data:`)."
            )
        if sentence := bounded_by_teacher(report):
            yield f"A better teacher: {sentence}"

    def _point(self, tried: Tried) -> Trial:
        size = tried.size or tried.sizes.nearest()
        looks = [(look.evidence, look.epochs) for look in tried.looks]
        return Trial(
            name=tried.candidate.name,
            latency_ms=size.ms if size.ms is not None else tried.sizes.nearest().ms or 0.0,
            size_mb=size.mb,
            admitted=tried.size is not None,
            kept=tuple((100 * seen.kept, 100 * seen.low, 100 * seen.high, epochs) for seen, epochs in looks),
            chosen=tried.looks.index(self.look) if tried.candidate == self.choice.tried.candidate else None,
        )

    def _origin(self) -> str:
        """Return the beginning of a sentence: what it was made of, what was done to it, and how it runs."""
        candidate = self.choice.tried.candidate
        made = "It was cut from {base}" if candidate.is_cut else "It was made of {base}"
        if candidate.is_whole:
            made = "It is {base} itself"
        fitted = ", fitted to it by least squares" if candidate.fits else ""
        trained = "distilled from it" if self.look.epochs else "not trained"
        forms = {"pytorch": "", "onnx": ", to run as ONNX,", "int8": ", to run in 8 bits as ONNX,"}
        among = f"and chosen among {counted(len(self.tried), 'candidate')}{forms[self.look.form]}"
        return f"{made}{fitted}, {trained}, {among}"

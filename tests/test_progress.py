import contextlib
import fcntl
import io
import os
import pty
import re
import struct
import termios

import pytest

from tests.reports import HELD_OUT, TRAIN, Time
from tfbert.watching import hooks, progress


class TestClock:
    def test_speed_leaves_evaluation_out_and_time_left_takes_it_in(self):
        now = Time()
        clock = progress.Clock(batch_size=6, now=now)
        now.now += 50  # tracing, and the first ten steps
        assert clock.lap(10, "train") == (60 / 50, 50, None)
        now.now += 20
        assert clock.lap(20, "train") == (60 / 20, 20, None)
        now.now += 30
        assert clock.lap(20, "held_out") is None
        now.now += 20
        assert clock.lap(30, "train") == (60 / 20, 20, None)
        # Ten steps took 20 seconds and half of the tens came with an evaluation: 70 seconds for twenty.
        assert clock.seconds_left(50) == 70

    def test_only_the_first_lap_knows_compilation(self):
        now = Time()
        clock = progress.Clock(6, now=now)
        assert clock.seconds_left(100) is None
        now.now += 50
        clock.lap(10, "train")
        assert clock.seconds_left(100) is None and not clock.is_known
        for step in range(20, 71, 10):
            now.now += 2
            clock.lap(step, "train")
            assert clock.seconds_left(100) == (100 - step) / 5

    def test_a_long_first_lap_tells_enough(self):
        now = Time()
        clock = progress.Clock(6, now=now)
        now.now += 500
        clock.lap(10, "train")
        assert clock.is_known and clock.seconds_left(100) == 4500

    def test_resumed(self):
        now = Time()
        clock = progress.Clock(6, start_step=900, now=now)
        now.now += 300
        clock.lap(910, "held_out")  # no "train" yet
        assert clock.lap(910, "train") == (0.2, 300, None)
        assert clock.seconds_left(1000) == 2700

    def test_time_left_follows_the_machine(self):
        now = Time()
        clock = progress.Clock(6, now=now)
        for step in range(1, 101):
            now.now += 1 if step < 50 else 10
            clock.lap(step, "train")
        assert clock.seconds_left(110) == 100

    def test_initial_evaluation_and_reporting_are_not_training(self):
        now = Time()
        clock = progress.Clock(6, now=now)
        now.now += 40
        clock.lap(0, "held_out")
        now.now += 5
        clock.skip()
        now.now += 2
        assert clock.lap(1, "train") == (3, 2, None)

    def test_the_share_of_waiting_is_of_each_lap(self):
        now, waited = Time(), iter([8.0, 8.0, 9.0, 30.0, 29.0])
        clock = progress.Clock(6, now=now, waited=lambda: next(waited))
        shares = []
        for step, seconds in ((1, 20), (2, 5), (3, 4), (4, 10), (5, 10)):
            now.now += seconds
            clock.lap(step, "held_out")
            shares.append(clock.lap(step, "train").input_wait_share)
        # At last the graph's clock was set, first forward and then back.
        assert shares == [0.4, 0.0, 0.25, 1.0, 0.0]

    @pytest.mark.parametrize(
        "seconds, text",
        [(0, "0:00"), (59.6, "1:00"), (725, "12:05"), (3600 * 3 + 249, "3:04:09"), (200000, "2d 07:33")],
    )
    def test_duration(self, seconds, text):
        assert progress.duration(seconds) == text


def terminal(columns):
    """A pseudo-terminal: (file descriptor that reads what was shown, stream that writes to it)."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    return main, os.fdopen(child, "w")


def all_of(main):
    """What a terminal got, after its stream was closed."""
    text = b""
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that there is no more
        while got := os.read(main, 10000):
            text += got
    os.close(main)
    return text.decode()


def shown(text):
    """The lines that a terminal shows after it got `text`."""
    lines = [""]
    for part in re.split(r"(\r\n|\n|\r|\x1b\[K)", text):
        if part in ("\r\n", "\n"):
            lines.append("")
        elif part == "\r":
            column = 0
            continue
        elif part == "\x1b[K":
            lines[-1] = lines[-1][:column]
            continue
        else:
            start = column if lines[-1] else 0
            lines[-1] = lines[-1][:start] + part + lines[-1][start + len(part) :]
            column = start + len(part)
            continue
        column = 0
    return lines


def test_rows_of_steps_that_are_not_of_one_size():
    now = Time()
    clock = progress.Clock(lambda step: step * step, now=now)
    for step, rows in ((3, 9), (5, 16)):
        now.now += 2
        assert clock.lap(step, "train")[0] == rows / 2


class TestProgressLine:
    def test_plain_lines(self):
        stream, now = io.StringIO(), Time()
        hook = hooks.progress_line(2000, 32, stream=stream, now=now)
        now.now += 25
        hook(500, TRAIN, "train")
        hook(500, HELD_OUT, "held_out")
        now.now += 25
        hook(1000, TRAIN, "train")
        hook.close()
        assert stream.getvalue() == (
            "step   500/2,000   25 %  loss 7.250  MLM 23.4 %  NSP 61.0 %  lr 1.00e-04  padding 11.0 %\n"
            "held out at step 500:  loss 7.250  MLM 23.4 %  NSP 61.0 %\n"
            "step 1,000/2,000   50 %  loss 7.250  MLM 23.4 %  NSP 61.0 %  lr 1.00e-04  640 seq/s  padding 11.0 %  "
            "0:50 left\n"
        )

    @pytest.mark.parametrize("columns", [8, 20, 40, 60, 79, 80, 120])
    def test_a_terminal_gets_one_line_that_fits(self, columns):
        main, stream = terminal(columns)
        now = Time()
        hook = hooks.progress_line(2_000_000, 32, start_step=1_000_000, stream=stream, now=now)
        for step in (1_000_100, 1_000_200):
            now.now += 25
            hook(step, TRAIN, "train")
        hook(1_000_200, HELD_OUT, "held_out")
        now.now += 25
        hook(1_000_300, TRAIN, "train")
        hook.close()
        stream.close()
        text = all_of(main)
        lines = shown(text)
        assert len(lines) == 3 and lines[-1] == ""  # the held-out figures, the live line, the cursor
        assert all(len(line) < columns for line in lines)
        assert lines[0].startswith("held out at step"[: columns - 1])
        assert lines[1].startswith("step 1,000,300/2,000,000"[: columns - 1])
        if columns >= 60:
            assert "loss 7.250" in lines[1] and lines[1].endswith("2d 21:25 left")
        if columns == 120:
            assert "50 %  loss 7.250  MLM 23.4 %  NSP 61.0 %  lr 1.00e-04  128 seq/s" in lines[1]

    def test_a_run_that_ends_by_time_shows_time(self):
        stream, now = io.StringIO(), Time()
        hook = hooks.progress_line(None, 32, stream=stream, now=now, train_seconds=600.0)
        hook(500, {**TRAIN, "training_seconds": 150.0}, "train")
        now.now += 500
        hook(2000, {**TRAIN, "training_seconds": 600.4}, "train")
        metrics = "loss 7.250  MLM 23.4 %  NSP 61.0 %  lr 1.00e-04"
        assert stream.getvalue().splitlines() == [
            f"step 500   25 %  {metrics}  padding 11.0 %  7:30 left",
            f"step 2,000  100 %  {metrics}  96.0 seq/s  padding 11.0 %  0:00 left",
        ]

    def test_waiting_for_input_is_shown(self):
        stream, now, waited = io.StringIO(), Time(), iter([5.0, 5.5])
        hook = hooks.progress_line(2000, 32, stream=stream, now=now, waited=lambda: next(waited))
        for step in (500, 1000):
            now.now += 25
            hook(step, {"learning_rate": 1e-4}, "train")
        assert stream.getvalue() == (
            "step   500/2,000   25 %  lr 1.00e-04  input wait 20.0 %\n"
            "step 1,000/2,000   50 %  lr 1.00e-04  640 seq/s  input wait 2.0 %  0:50 left\n"
        )

    def test_a_metric_that_is_not_reported_is_not_shown(self):
        stream = io.StringIO()
        hooks.progress_line(10, 1, stream=stream)(3, {"masked_lm_accuracy": 0.5}, "held_out")
        assert stream.getvalue() == "held out at step 3:  MLM 50.0 %\n"


class TestWorkLine:
    def test_plain_lines(self):
        stream, now = io.StringIO(), Time()
        line = progress.WorkLine(seconds=5.0, stream=stream, now=now)
        line("counting: 7 documents")  # too soon to be said
        for done in (0, 100, 250, 400):
            now.now += 4
            line(f"writing: {done} of 400", done, 400)
        line("writing: again, in the same moment", 400, 400)
        now.now += 5
        line("counting: 9 documents")
        line.close()
        # The first call of the work gives the time that what is left is reckoned from.
        assert stream.getvalue() == (
            "   0:08  [######------------------]  25 %, 0:12 left  writing: 100 of 400\n"
            "   0:16  [########################] 100 %, 0:00 left  writing: 400 of 400\n"
            "   0:21  counting: 9 documents\n"
        )
        assert line.seconds() == 21

    def test_more_than_was_foreseen(self):
        stream, now = io.StringIO(), Time()
        line = progress.WorkLine(seconds=0.0, stream=stream, now=now)
        now.now += 1
        line("w", 5, 5)
        now.now += 1
        line("w", 7, 5)
        assert stream.getvalue().splitlines()[-1] == f"   0:02  [{'#' * 24}] 100 %, 0:00 left  w"

    @pytest.mark.parametrize("columns", [5, 30, 120])
    def test_a_terminal_gets_one_line_that_fits_and_goes(self, columns):
        main, stream = terminal(columns)
        now = Time()
        line = progress.WorkLine(stream=stream, now=now)
        for done in range(1, 4):
            now.now += 1  # often on a terminal, where the line is written over
            line(f"embedding: {done:,} of 3 lines", done, 3)
        stream.flush()
        text = ""
        while text.count("\r") < 3:  # a terminal may hand on a part of what was written
            text += os.read(main, 10000).decode()
        (live,) = shown(text)
        assert (
            len(live) < columns
            and live == f"   0:03  [{'#' * 24}] 100 %, 0:00 left  embedding: 3 of 3 lines"[: columns - 1]
        )
        line.close()
        stream.close()
        assert shown(text + all_of(main)) == [""]

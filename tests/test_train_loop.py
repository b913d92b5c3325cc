import dataclasses
import os
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbert import checks, input_pipeline
from tfbert.layers import dropout
from tfbert.loop import batch_ramp, checkpoints, faults, retention, stop_request, train_loop
from tfbert.loop import trainer as trainer_lib
from tfbert.watching import probes

D, RATE, CLIP = 7, 0.5, 0.05
DEFAULT = tf.distribute.get_strategy()


def build(rate=0.0):
    """A model with two outputs; its weights are the same at each call."""
    inputs = {"x": keras.Input((D,), name="x"), "scale": keras.Input((1,), name="scale")}
    hidden = keras.layers.Dense(5, "tanh", name="hidden")(inputs["x"] * inputs["scale"])
    hidden = dropout.Dropout(rate, name="drop")(hidden)
    outputs = {"a": keras.layers.Dense(1, name="a")(hidden), "b": keras.layers.Dense(1, name="b")(hidden)}
    model = keras.Model(inputs, outputs)
    for i, v in enumerate(model.variables):
        v.assign(np.random.default_rng(i).normal(0, 0.5, v.shape))
    return model


def losses(outputs, features):
    """Two losses with weights of their own: unequal over examples, so that means of means would be wrong."""
    a = tf.reduce_sum(features["weight"] * tf.square(outputs["a"] - 1.0))
    b = tf.reduce_sum(tf.square(outputs["b"] - features["x"][:, :1]))
    return {"a": (a, weights(features)["a"]), "b": (b, weights(features)["b"])}


def weights(features):
    return {"a": tf.reduce_sum(features["weight"]), "b": tf.cast(tf.shape(features["x"])[0], tf.float32)}


def metrics(outputs, features):
    return {"high": (tf.reduce_sum(tf.cast(outputs["a"] > 0, tf.float32)), weights(features)["b"])}


OBJECTIVE = trainer_lib.Objective(losses, weights, metrics, ("a", "b"), ("high",))


def batch(size=12, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(size, D)).astype(np.float32),
        "scale": rng.uniform(1, 2, (size, 1)).astype(np.float32),
        "weight": rng.integers(0, 5, (size, 1)).astype(np.float32),
        "input_mask": (rng.random((size, 11)) < 0.6).astype(np.int32),
        "unused": np.zeros(size, np.float32),
    }


class SGD(keras.optimizers.SGD):
    """Plain descent, with what `Trainer` asks of an optimizer."""

    def apply_scaled(self, gradients, scale, variables):
        self.apply([scale * g for g in gradients], variables)


def make(strategy=DEFAULT, micro_batches=1, clip_norm=CLIP, rate=0.0, seed=0, objective=OBJECTIVE, loss_scale=None):
    with strategy.scope():
        model = build(rate)
        optimizer = SGD(RATE)
        optimizer.build(model.trainable_variables)
    arguments = strategy, model, optimizer, objective, micro_batches, clip_norm, seed
    return model, trainer_lib.Trainer(*arguments, loss_scale=loss_scale), optimizer


def endless(features, size):
    return tf.data.Dataset.from_tensor_slices(features).batch(size, drop_remainder=True).repeat()


def feed(strategy, features, size):
    return iter(strategy.distribute_datasets_from_function(lambda _: endless(features, size)))


def values(model):
    return {v.path: np.asarray(v) for v in model.variables}


def reference(features, clip_norm=CLIP):
    """One step written plainly: the weights after it, its loss and its gradient norm."""
    model = build()
    with tf.GradientTape() as tape:
        outputs = model({"x": features["x"], "scale": features["scale"]})
        pairs = losses(outputs, features).values()
        loss = sum(s / w for s, w in pairs)
    gradients = [g.numpy() for g in tape.gradient(loss, [v.value for v in model.variables])]
    norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradients))
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    return {v.path: v.numpy() - RATE * scale * g for v, g in zip(model.variables, gradients)}, float(loss), norm


def assert_close(got, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=2e-5, atol=2e-6, err_msg=name)


class Stop:
    """A `StopRequest` that nothing asks."""

    def __init__(self):
        self.variable = self.agreed = tf.Variable(False)
        self.signal = None

    @property
    def asked(self):
        return self.signal is not None


class TestStep:
    @pytest.mark.parametrize("clip_norm", [CLIP, 0.0, 1e3])
    def test_equals_the_plain_one(self, clip_norm):
        model, trainer, _ = make(clip_norm=clip_norm)
        expected, loss, norm = reference(batch(), clip_norm)
        np.testing.assert_allclose(trainer.run(feed(DEFAULT, batch(), 12), 1, Stop()), (loss, norm), rtol=1e-5)
        assert_close(values(model), expected)
        assert trainer.step == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("micro_batches", [2, 4])
    def test_accumulation_equals_the_large_batch(self, micro_batches):
        model, trainer, _ = make(micro_batches=micro_batches)
        expected, loss, norm = reference(batch())
        got = trainer.run(feed(DEFAULT, batch(), 12 // micro_batches), 1, Stop())
        np.testing.assert_allclose(got, (loss, norm), rtol=1e-5)
        assert_close(values(model), expected)

    @pytest.mark.slow
    @pytest.mark.parametrize("micro_batches", [1, 3])
    def test_two_replicas_equal_one(self, mirrored, micro_batches):
        model, trainer, _ = make(mirrored, micro_batches)
        expected, loss, norm = reference(batch())
        got = trainer.run(feed(mirrored, batch(), 12 // micro_batches // 2), 1, Stop())
        np.testing.assert_allclose(got, (loss, norm), rtol=1e-5)
        for copies in [[v.value.values[r] for v in model.variables] for r in range(2)]:
            assert_close(dict(zip(expected, copies)), expected)

    def test_gradients_in_bfloat16_are_summed_in_float32(self):
        """What a cast made of bfloat16 is read before the cast; its norm is as exact as of float32."""
        x = tf.cast(tf.random.stateless_normal([3, 700], [1, 2]), tf.bfloat16)
        norms, types = {}, {}

        @tf.function
        def norm(x):
            wide = tf.cast(x, tf.float32)
            for name, g in {"narrow": trainer_lib._before_cast(wide), "wide": wide}.items():
                norms[name], types[name] = trainer_lib._sum_of_squares(g), g.dtype
            return norms["narrow"], norms["wide"]

        narrow, wide = norm(x)
        assert types == {"narrow": tf.bfloat16, "wide": tf.float32}
        np.testing.assert_allclose([narrow, wide], np.sum(np.square(np.asarray(x, np.float64))), rtol=1e-5)

    def test_a_loss_without_weight_is_zero(self):
        features = batch()
        features["weight"][:] = 0
        model, trainer, _ = make()
        trainer.run(feed(DEFAULT, features, 12), 1, Stop())
        assert trainer.take_report()["a"] == 0
        assert np.isfinite(np.concatenate([v.ravel() for v in values(model).values()])).all()

    def test_steps_in_one_call_equal_calls_of_one_step(self):
        one, trainer, _ = make()
        trainer.run(feed(DEFAULT, batch(24), 4), 5, Stop())
        other, trainer, _ = make()
        iterator = feed(DEFAULT, batch(24), 4)
        for _ in range(5):
            trainer.run(iterator, 1, Stop())
        assert trainer.step == 5
        for name, value in values(one).items():
            np.testing.assert_array_equal(values(other)[name], value)

    def test_variables_without_gradient_are_refused(self):
        objective = trainer_lib.Objective(
            lambda o, f: {"a": losses(o, f)["a"]}, lambda f: {"a": weights(f)["a"]}, metrics, ("a",), ("high",)
        )
        _, trainer, _ = make(objective=objective)
        with pytest.raises(ValueError, match=r"must have a gradient; \['b/kernel', 'b/bias'\] have none"):
            trainer.run(feed(DEFAULT, batch(), 12), 1, Stop())


class TestDropoutSeeds:
    def after(self, steps=1, **kwargs):
        strategy = kwargs.get("strategy", DEFAULT)
        model, trainer, _ = make(rate=0.5, clip_norm=0.0, **kwargs)
        trainer._step.assign(kwargs.pop("start", 0))
        trainer.run(feed(strategy, batch(), 4), steps, Stop())
        return values(model)["a/kernel"]

    @pytest.mark.slow
    def test_a_function_of_seed_and_step(self):
        np.testing.assert_array_equal(self.after(2), self.after(2))
        assert not np.array_equal(self.after(), self.after(seed=1))

    @pytest.mark.slow
    def test_steps_micro_batches_and_replicas_draw_apart(self, mirrored):
        """Identical examples everywhere: with one mask for all, the sum would be a multiple of one part's."""
        seen = {}

        def sample(outputs, features):
            return {"high": (outputs["a"][0, 0], tf.constant(1.0))}

        features = {n: np.repeat(x[:1], 8, 0) for n, x in batch().items()}
        objective = trainer_lib.Objective(losses, weights, sample, ("a", "b"), ("high",))
        for name, strategy, parts in (("one", DEFAULT, 1), ("micro", DEFAULT, 2), ("replica", mirrored, 1)):
            _, trainer, optimizer = make(strategy, parts, rate=0.5, objective=objective)
            optimizer.learning_rate = 0.0
            iterator = feed(strategy, features, 1)
            reports = []
            for _ in range(12):
                trainer.run(iterator, 1, Stop())
                reports.append(trainer.take_report()["high"])
            seen[name] = np.array(reports)
        # The mean over two parts equals the first part's value only if their masks give the same output.
        assert len(set(seen["one"].round(5))) > 6
        assert (abs(seen["micro"] - seen["one"]) > 1e-5).sum() > 6
        assert len(set(seen["replica"].round(5))) > 6
        assert (abs(seen["replica"] - seen["one"]) > 1e-5).sum() > 6


class TestReports:
    def test_means_are_weighted_over_steps(self):
        _, trainer, optimizer = make(clip_norm=0.0)
        optimizer.learning_rate = 0.0
        features = batch(12)
        trainer.run(feed(DEFAULT, features, 4), 3, Stop())
        report = trainer.take_report()
        outputs = build()({"x": features["x"], "scale": features["scale"]})
        for name, (total, weight) in {**losses(outputs, features), **metrics(outputs, features)}.items():
            assert report[name] == pytest.approx(float(total / weight), rel=1e-5)
        assert report["loss"] == pytest.approx(report["a"] + report["b"])
        assert report["padding_share"] == pytest.approx(1 - features["input_mask"].mean(), rel=1e-5)
        norms = [reference({n: x[i : i + 4] for n, x in features.items()})[2] for i in (0, 4, 8)]
        assert report["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-5)

    @pytest.mark.parametrize("micro_batches", [1, 2])
    def test_gradient_norms_of_parts(self, monkeypatch, micro_batches):
        monkeypatch.setattr(probes, "part_of", lambda path: path.split("/")[0])
        _, trainer, optimizer = make(clip_norm=CLIP, micro_batches=micro_batches)
        optimizer.learning_rate = 0.0
        features, before = batch(12), values(build())
        trainer.run(feed(DEFAULT, features, 4 // micro_batches), 3, Stop())
        report = trainer.take_report()
        steps = [reference({n: x[i : i + 4] for n, x in features.items()}, 0.0)[0] for i in (0, 4, 8)]
        for part in ("hidden", "a", "b"):
            paths = [path for path in before if path.startswith(f"{part}/")]
            changes = [np.concatenate([np.ravel(before[p] - after[p]) for p in paths]) for after in steps]
            norms = [np.linalg.norm(change) / RATE for change in changes]
            assert report[f"gradient_norm/{part}"] == pytest.approx(np.mean(norms), rel=1e-4), part
        assert sum(name.startswith("gradient_norm") for name in report) == 4

    def test_a_report_begins_anew(self):
        _, trainer, optimizer = make()
        optimizer.learning_rate = 0.0
        iterator = feed(DEFAULT, batch(), 12)
        trainer.run(iterator, 2, Stop())
        first = trainer.take_report()
        trainer.run(iterator, 3, Stop())
        assert trainer.take_report() == pytest.approx(first)

    def test_evaluation_is_weighted_and_on_all_replicas(self, mirrored):
        features = batch(8)
        outputs = build()({"x": features["x"], "scale": features["scale"]})
        expected = {
            n: float(s / w) for n, (s, w) in {**losses(outputs, features), **metrics(outputs, features)}.items()
        }
        for strategy in (DEFAULT, mirrored):
            with strategy.scope():
                model = build(rate=0.5)  # evaluation drops nothing
            evaluator = trainer_lib.Evaluator(strategy, model, OBJECTIVE)
            dataset = tf.data.Dataset.from_tensor_slices(features).batch(2)
            dataset = strategy.distribute_datasets_from_function(lambda _, d=dataset: d)
            for _ in range(2):
                got = evaluator.evaluate(dataset)
                assert got == pytest.approx({**expected, "loss": expected["a"] + expected["b"]}, rel=1e-5)

    def test_evaluation_that_is_stopped_says_nothing(self):
        stop = Stop()
        stop.signal = signal.SIGTERM
        assert trainer_lib.Evaluator(DEFAULT, build(), OBJECTIVE).evaluate(endless(batch(), 4), stop) is None


class TestPlan:
    def test_python_comes_in_where_there_is_something_to_do(self):
        plan = train_loop.Plan(47, log_steps=10, eval_steps=15, save_checkpoints_steps=20, iterations_per_loop=8)
        step, stops = 0, []
        while step < 47:
            step += plan.steps_at_once(step)
            stops.append(step)
        assert stops == [8, 10, 15, 20, 28, 30, 38, 40, 45, 47]
        assert [s for s in range(48) if plan.logs_at(s)] == [10, 20, 30, 40, 47]
        assert [s for s in range(48) if plan.evaluates_at(s)] == [0, 15, 30, 45, 47]
        assert [s for s in range(48) if plan.saves_at(s)] == [20, 40, 47]

    def test_no_evaluation_in_between(self):
        plan = train_loop.Plan(9, log_steps=5, eval_steps=0, save_checkpoints_steps=5, iterations_per_loop=100)
        assert [s for s in range(10) if plan.evaluates_at(s)] == [0, 9]
        assert plan.steps_at_once(0) == 5 and plan.steps_at_once(5) == 4
        assert not dataclasses.replace(plan, patience=1).gives_up_at(9, 0)

    def test_gives_up_after_so_many_evaluations_that_were_no_better(self):
        plan = train_loop.Plan(100, 5, eval_steps=6, save_checkpoints_steps=5, iterations_per_loop=7, patience=3)
        for best in (None, 0):
            assert [s for s in (6, 12, 18, 24) if plan.gives_up_at(s, best)] == [18, 24]
        assert [s for s in range(12, 43, 6) if plan.gives_up_at(s, 12)] == [30, 36, 42]
        assert not dataclasses.replace(plan, patience=None).gives_up_at(96, 6)


class Run:
    """`train` on the small model, with what happened in order."""

    def __init__(self, folder, steps=9, features=None, on_spike="stop", best_by=None, **plan):
        self.model, self.trainer, optimizer = make()
        self.faults = faults.Faults(batch_ramp.BatchRamp(1), 4, on_spike=on_spike)
        state = self.trainer.state | self.faults.state
        policy = retention.Policy(1 if best_by else 5, best_by=best_by)
        self.saver = checkpoints.Checkpoints(str(folder), self.model, optimizer, state, policy)
        save, self.events = self.saver.save, []
        self.reports = Reports(self.events)
        self.saver.save = lambda step: (self.events.append(("save", step)), save(step))
        every = {"log_steps": 3, "eval_steps": 6, "save_checkpoints_steps": 6, "iterations_per_loop": 100, **plan}
        self.plan, self.features = train_loop.Plan(steps, **every), features or batch()

    def watch_by(self, watch):
        """Lets a `spikes.SpikeWatch` look at the losses."""
        self.trainer._watch = self.faults._watch = watch

    def make_iterator(self):
        """From the trainer's step on, without what is left out; a step takes four examples."""
        first, left_out = self.faults.part_at(self.trainer.step), self.faults.left_out
        dataset = input_pipeline.without(endless(self.features, 4).skip(first), first, left_out)
        return iter(DEFAULT.distribute_datasets_from_function(lambda _: dataset))

    def __call__(self, stop=None, evaluate=lambda: {"loss": 1.0}, evaluate_first=True, iterator=None):
        """The step reached; `over` is whether the run is over."""
        step, self.over = train_loop.train(
            self.trainer,
            (lambda: iterator) if iterator else self.make_iterator,
            self.plan,
            self.saver,
            self.reports,
            evaluate,
            lambda step: 0.1,
            stop or Stop(),
            self.faults,
            evaluate_first,
        )
        return step


class Reports:
    """`hooks.Logs` that notes what it is told in order."""

    def __init__(self, events):
        self.events = events

    def __call__(self, step, metrics, split):
        self.events.append((split, step))

    def event(self, step, name, text):
        self.events.append((name, step))

    def rewind(self, step):
        self.events.append(("rewind", step))


class TestTrain:
    def test_order_at_one_step_is_report_evaluation_checkpoint(self, tmp_path):
        run = Run(tmp_path)
        assert run() == 9
        assert run.events == [
            ("held_out", 0),
            ("train", 3),
            ("train", 6),
            ("held_out", 6),
            ("save", 6),
            ("train", 9),
            ("held_out", 9),
            ("save", 9),
        ]

    def test_goes_on_from_a_checkpoint_without_repeating(self, tmp_path):
        Run(tmp_path)()
        os.remove(tmp_path / "ckpt-9.index")
        run = Run(tmp_path)
        run.saver.restore_latest()
        run(evaluate_first=False)
        assert run.events == [("train", 9), ("held_out", 9), ("save", 9)]

    def test_what_a_stop_left_out_is_evaluated_when_it_goes_on(self, tmp_path):
        run, stop = Run(tmp_path), Stop()

        def interrupted():
            if run.trainer.step == 0:
                return {"loss": 1.0}
            stop.signal = signal.SIGTERM
            return None

        assert run(stop, interrupted) == 6
        assert run.events == [("held_out", 0), ("train", 3), ("train", 6), ("save", 6)]
        run = Run(tmp_path)
        run.saver.restore_latest()
        run()
        assert run.events == [("held_out", 6), ("train", 9), ("held_out", 9), ("save", 9)]

    def test_ends_early_and_goes_on_with_more_patience(self, tmp_path):
        """Held out the quality of each step is known; the logs and weights are those of a run with more patience."""
        quality = {0: 9.0, 2: 0.2, 4: 0.5, 6: 0.4, 8: 0.5, 10: 0.7, 12: 0.1}

        def train(folder, patience, resume=False):
            folder.mkdir(exist_ok=True)
            run = Run(folder, 12, best_by=("score", "max"), patience=patience, eval_steps=2, save_checkpoints_steps=5)
            if resume:
                run.saver.restore_latest()
            reached = run(evaluate=lambda: {"score": quality[run.trainer.step]}, evaluate_first=not resume)
            return run, reached

        run, reached = train(tmp_path / "run", 2)
        assert reached == 8 and run.over and ("early_stop", 8) in run.events
        assert run.saver.best_step == 4 and checkpoints.saved_steps(str(tmp_path / "run")) == [4, 8]
        more, reached = train(tmp_path / "run", 3, resume=True)
        assert reached == 12 and more.over and more.saver.best_step == 10
        whole, _ = train(tmp_path / "whole", 3)
        for name, value in values(whole.model).items():
            np.testing.assert_array_equal(values(more.model)[name], value)
        told = [[e for e in r.events if e[0] in ("train", "held_out")] for r in (run, more, whole)]
        assert told[0] + told[1] == told[2]

    @pytest.mark.parametrize("at_once", [1, 100])
    def test_a_step_that_is_not_finite_stops_and_is_not_saved(self, tmp_path, at_once):
        features = batch(36)
        features["x"][7 * 4 + 1, 2] = np.nan  # in the eighth step
        run = Run(tmp_path, features=features, iterations_per_loop=at_once)
        with pytest.raises(checks.InputError, match=r"gradient_norm=nan \(at step 8, records 28 to 31 in") as e:
            run()
        assert str(tmp_path / "ckpt-6") in str(e.value)
        assert checkpoints.saved_steps(str(tmp_path)) == [6]
        assert run.saver.restore_latest() == 6
        assert np.isfinite(np.concatenate([v.ravel() for v in values(run.model).values()])).all()

    def test_not_finite_before_the_first_checkpoint(self, tmp_path):
        features = batch(8)
        features["weight"][5] = np.inf
        with pytest.raises(checks.InputError, match=r"at step 2.*No checkpoint was written yet"):
            Run(tmp_path, features=features)()
        assert not checkpoints.saved_steps(str(tmp_path))


class TestStopRequest:
    @pytest.mark.slow
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_ends_a_long_call_within_a_step_and_saves(self, tmp_path, number):
        """The signal comes while the graph is in one call of a million steps."""
        asked = []

        def examples():
            for i in range(10**6):
                if i == 20:
                    asked.append(run.trainer.step)
                    os.kill(os.getpid(), number)
                    time.sleep(0.5)  # meanwhile no step can run: this is its batch
                yield {n: x[:4] for n, x in batch().items()}

        spec = {n: tf.TensorSpec((4, *x.shape[1:]), x.dtype) for n, x in batch().items()}
        dataset = tf.data.Dataset.from_generator(examples, output_signature=spec)
        every = {"log_steps": 10**6, "eval_steps": 0, "save_checkpoints_steps": 10**6, "iterations_per_loop": 10**6}
        run = Run(tmp_path, steps=10**6, **every)
        before = signal.getsignal(number)
        with stop_request.StopRequest() as stop:
            reached = run(stop, evaluate=None, iterator=iter(dataset))
        assert stop.signal == number and asked[0] <= reached <= 21
        assert run.events == [("save", reached)] and checkpoints.saved_steps(str(tmp_path)) == [reached]
        assert signal.getsignal(number) is before

    def test_other_signals_are_left_alone(self):
        with stop_request.StopRequest() as stop:
            old = signal.signal(signal.SIGUSR1, lambda *_: None)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
            signal.signal(signal.SIGUSR1, old)
        assert stop.signal is None and not stop.variable.numpy()


def test_hooks_are_closed_whatever_happens():
    class Hook:
        closed = False

        def close(self):
            self.closed = True

    hooks = [Hook(), Hook()]
    with pytest.raises(KeyError), train_loop.closing(hooks):
        raise KeyError
    assert all(hook.closed for hook in hooks)

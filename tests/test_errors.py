"""Errors: what they say, how they end a command line, how they travel."""

import pickle

import pytest

from hintbench import errors


class TestErrors:
    def test_every_error_survives_a_trip_between_processes(self):
        cause = ZeroDivisionError("division by zero")
        cause.unpicklable = lambda: None
        samples = [
            errors.UnknownNameError("strategy", "bitmap", ["bitmap-and-spin"], "or -p"),
            errors.PluginError("mine", "block_freed", cause),
            errors.PluginHangError("mine", "block_freed", "did not come back"),
            errors.TaskLeakError("mine", cause="worker, timer"),
            errors.TraceError("trace.txt: empty"),
        ]
        for error in samples:
            twin = pickle.loads(pickle.dumps(error))
            assert (type(twin), str(twin)) == (type(error), str(error))
            assert twin.exit_status == error.exit_status

    def test_exit_statuses(self):
        assert errors.GuestError("x").exit_status == 2
        assert errors.PluginError("p", "h", "c").exit_status == 1

    def test_a_plugins_error_names_plugin_hook_cause_and_line(self):
        try:
            int(1 / 0)
        except ZeroDivisionError as cause:
            message = str(errors.PluginError("mine", "block_freed", cause))
        assert message.startswith("plugin 'mine': block_freed: ZeroDivisionError: division by zero")
        assert "test_errors.py:" in message

    @pytest.mark.parametrize(
        ("name", "near"),
        [
            ("bitmap-and-spn", "bitmap-and-spin"),
            ("bitmap", "bitmap-and-spin"),
            ("V9", "percpu-array-v9"),
            ("percpu_array_v9", "percpu-array-v9"),
            ("zzz", None),
        ],
    )
    def test_nearest(self, name, near):
        assert (
            errors.nearest(name, ["none", "oracle", "percpu-array-v9", "bitmap-and-spin"]) == near
        )

"""The command line as a user meets it: help, exit statuses, one line for each mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from hintbench import cli

SMALL = ("--memory", "64MiB", "--vcpus", "1")
QUICK = ("-w", "churn,operations=2000,final_idle_ns=1000")


def hintbench(*arguments, **options):
    """Run the command line in a process of its own."""
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    environment = {
        **os.environ,
        "HINTBENCH_DISABLE_PLUGINS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        **options.pop("env", {}),
    }
    command = [sys.executable, "-m", "hintbench.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, check=False, **options)


@pytest.fixture
def run_main(capsys):
    """Run the command line in this process: (exit status, standard output, standard error)."""

    def run(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


def one_line(error):
    assert error.startswith("hintbench: "), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in error
    return error


def without_notes(error):
    lines = error.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("hintbench: note:"))


class TestHelp:
    @pytest.mark.parametrize(
        ("arguments", "mentions"),
        [
            ((), ["run", "list", "speed", "trace", "new"]),
            (("run",), ["-s", "-w", "--guest", "--memory", "--vcpus", "--kernel", "--seed"]),
            (("run",), ["--json", "--jobs", "--plugin", "NAME[,key=value...]", "trace:PATH"]),
            (("list",), ["--plugin"]),
            (("speed",), ["--json"]),
            (("trace",), ["info", "import"]),
            (("trace", "info"), ["FILE"]),
            (("trace", "import"), ["FILE...", "--output", "-o"]),
            (("new",), ["strategy"]),
            (("new", "strategy"), ["NAME"]),
        ],
    )
    def test_help(self, run_main, arguments, mentions):
        status, output, error = run_main(*arguments, "--help")
        assert (status, error) == (0, "")
        assert all(mention in output for mention in mentions)
        assert max(map(len, output.splitlines())) <= 100

    def test_version(self, run_main):
        status, output, _ = run_main("--version")
        assert status == 0
        assert re.fullmatch(r"hintbench \d+\.\d+\S*\n", output)

    def test_no_arguments_show_the_help(self, run_main):
        status, _, error = run_main()
        assert status == 2
        assert "Commands:" in error

    def test_help_does_not_wait_for_heavy_modules(self):
        code = (
            "import sys; from hintbench import cli; cli.main(['run', '--help']);"
            "heavy = {'numpy', 'pluggy', 'rich', 'scipy', 'Cython'} & set(sys.modules);"
            "sys.exit(','.join(sorted(heavy)) or 0)"
        )
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
        )
        assert (found.returncode, found.stderr) == (0, "")


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (["rnu"], r"no such command 'rnu'"),
            (["run", "--sede", "3"], r"no such option.*--sede.*\(see hintbench run --help\)"),
            (["run", "--vcpus", "four"], "vcpus: 'four' is not a whole number"),
            (["run", "--jobs", "0"], r"--jobs: '0' is not a number in 1\.\."),
            (["run", "--seed", "x"], r"seeds\[0\]: 'x' is not a whole number"),
            (["run", "-s", "bitmap-and-spn"], "unknown strategy .*did you mean 'bitmap-and-spin'"),
            (["run", "-w", "chrun"], "unknown workload 'chrun': did you mean 'churn'"),
            (["run", "-s", "oracle,at_ordr=9"], "at_ordr: .*did you mean 'at_order'"),
            (["run", "-s", "oracle,at_order=11"], r"at_order: .*11.* out of range \S+\.\.10"),
            (["run", "-s", "oracle,at_order=big"], "at_order: 'big' is not a whole number"),
            (["run", "-s", "oracle,fast"], "write NAME, or NAME,key=value"),
            (["run", "-s", "none,x=1"], "strategy 'none': x: .*there are none"),
            (["run", "-w", "trace:"], "names no file"),
            (["run", "--guest", "smal"], "unknown guest 'smal': did you mean 'small'"),
            (["run", "--guest", "absent.toml"], "absent.toml: cannot be read: No such file"),
            (["run", "--memory", "8GB"], "did you mean '8GiB'"),
            (["run", "--memory", "1MiB"], r"memory: 1 MiB is out of range 64 MiB\.\.8 TiB"),
            (["run", "--vcpus", "0"], r"vcpus: 0 is out of range 1\.\.256"),
            (["run", "--kernel", "6.1"], "kernel: '6.1' is not one of 5.0, 6.12"),
            (["run", "--seed", "-1"], "-1 must be at least 0"),
            (["run", "--json", "absent/results.json"], "absent/results.json: cannot be written"),
            (["run", "-p", "absent.py"], "plugin 'absent.py': no such file"),
            (["run", "-p", "absent.module"], "no module named 'absent'"),
            (["new", "strategy", "My Strategy"], "cannot be a strategy's name"),
            (["new", "strategy", "class"], "cannot be a strategy's name"),
            (["new", "strategy", "9lives"], "cannot be a strategy's name"),
            (["new", "strategy", "oracle"], "one of hintbench's own"),
        ],
    )
    def test_one_line_and_status_2(self, run_main, tmp_path, monkeypatch, arguments, match):
        monkeypatch.chdir(tmp_path)
        status, output, error = run_main(*arguments)
        assert (status, output) == (2, "")
        assert re.search(match, one_line(error), re.IGNORECASE), error
        assert not list(tmp_path.iterdir())

    def test_a_guest_file_is_named_with_the_place_in_it(self, run_main, tmp_path):
        file = tmp_path / "guest.toml"
        file.write_text("[host]\nkick = 'vpcu'\n")
        status, _, error = run_main("run", "--guest", file)
        assert status == 2
        wanted = f"{file}: host.kick: 'vpcu' is not one of vcpu-thread, device-thread, hypercall"
        assert wanted in one_line(error)

    def test_debug_shows_the_traceback_wherever_it_stands(self, run_main):
        status, _, error = run_main("run", "-s", "nnoe", "--debug")
        assert status == 2
        assert "Traceback" in error
        assert error.splitlines()[-1].startswith("hintbench: unknown strategy")

    def test_a_fault_of_ours_is_one_line_too(self, run_main, monkeypatch):
        monkeypatch.setattr("hintbench.commands.run_comparison", lambda *_, **__: 1 / 0)
        status, _, error = run_main("run")
        assert status == 1
        assert "internal error: ZeroDivisionError" in one_line(error)
        assert "--debug" in error

    def test_ctrl_c_outside_a_run(self, run_main, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("hintbench.commands.run_comparison", interrupted)
        assert run_main("run")[0] == 130


class TestList:
    def test_everything_with_its_parameters(self, run_main):
        status, output, _ = run_main("list")
        assert status == 0
        for name in ("none", "percpu-array-v9", "zone-confined-batching", "churn", "trace", "seed"):
            assert re.search(rf"^  {name} +\S", output, re.MULTILINE), name
        assert re.search(r"^      locked_return=false +true\|false: \S", output, re.MULTILINE)
        assert max(map(len, output.splitlines())) <= 120
        assert "no description" not in output

    def test_a_plugin_says_where_it_comes_from(self, run_main, tmp_path):
        file = tmp_path / "stranger.py"
        file.write_text(
            "from hintbench import Strategy\n"
            "class Stranger(Strategy):\n"
            "    'Comes from elsewhere.'\n"
            "    name = 'stranger'\n"
        )
        _, output, _ = run_main("list", "-p", file)
        listed = re.search(r"  stranger .*?(?=\n  ?\w|\n\n)", output, re.DOTALL)
        assert listed is not None
        assert f"Comes from elsewhere. [{file}]" in " ".join(listed[0].split())


class TestNew:
    def test_it_writes_a_plugin_and_says_how_to_try_it(self, run_main, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        status, output, _ = run_main("new", "strategy", "my-own")
        assert (status, os.listdir(tmp_path)) == (0, ["my_own.py"])
        assert "hintbench run -p my_own.py" in output
        text = (tmp_path / "my_own.py").read_text()
        assert "class MyOwn(Strategy)" in text
        assert "$" not in text
        compile(text, "my_own.py", "exec")

    def test_it_never_overwrites(self, run_main, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text("precious")
        status, _, error = run_main("new", "strategy", "mine")
        assert status == 2
        assert "exists already" in one_line(error)
        assert (tmp_path / "mine.py").read_text() == "precious"

    def test_what_it_writes_works(self, tmp_path):
        hintbench("new", "strategy", "mine", cwd=tmp_path)
        found = hintbench(
            *("run", "-p", "mine.py", "-s", "none", "-s", "mine", *QUICK, "--memory", "1GiB"),
            *("--json", "out.json"),
            cwd=tmp_path,
        )
        assert (found.returncode, without_notes(found.stderr)) == (0, "")
        none, mine = json.loads((tmp_path / "out.json").read_text())["results"]
        assert none["metrics"]["reported_blocks"] == 0
        assert mine["metrics"]["reported_blocks"] > 50
        assert mine["violations"] == {}


BROKEN = """
import os, signal, time
from hintbench import Strategy, hookimpl

class Raises(Strategy):
    "Raises."
    name = "raises"

    @hookimpl
    def guest_started(self, guest):
        raise ValueError("on purpose")

class Dies(Strategy):
    "Takes its process with it."
    name = "dies"

    @hookimpl
    def guest_started(self, guest):
        os.kill(os.getpid(), signal.SIGKILL)

class Waits(Strategy):
    "Interrupts whoever started it, as Ctrl-C does."
    name = "waits"

    @hookimpl
    def guest_started(self, guest):
        time.sleep(1)
        os.kill(int(os.environ["VICTIM"]), signal.SIGINT)
        time.sleep(5)
"""


@pytest.fixture
def broken(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    return tmp_path


class TestRun:
    def test_results_do_not_depend_on_the_number_of_jobs(self, tmp_path):
        strategies = ("-s", "none", "-s", "zone-confined-batching", "-s", "oracle,at_order=9")
        found = {}
        for jobs in (1, 2):
            done = hintbench(
                *("run", *strategies, *QUICK, "-w", "bulk,operations=2000", *SMALL),
                *("--jobs", jobs, "--json", f"{jobs}.json", "--seed", 1, "--seed", 2),
                cwd=tmp_path,
            )
            assert (done.returncode, without_notes(done.stderr)) == (0, "")
            content = json.loads((tmp_path / f"{jobs}.json").read_text())
            found[jobs] = (
                [
                    {key: value for key, value in result.items() if key != "wall_seconds"}
                    for result in content["results"]
                ],
                done.stdout,
            )
        assert found[1] == found[2]
        assert len(found[1][0]) == 3 * 2 * 2
        assert len({result["digest"] for result in found[1][0]}) > 6

    def test_the_table_and_the_file(self, tmp_path):
        done = hintbench(
            *("run", "-s", "none", "-s", "oracle", *QUICK, *SMALL, "--json", "out.json"),
            cwd=tmp_path,
        )
        assert (done.returncode, without_notes(done.stderr)) == (0, "")
        content = json.loads((tmp_path / "out.json").read_text())
        assert content["schema"] == 1
        none, oracle = content["results"]
        assert none["metrics"]["throughput_ratio"] == 1.0
        assert oracle["metrics"]["alloc_p99_ns"] > 0
        assert re.search(r"^  none +1\.000 ", done.stdout, re.MULTILINE)
        assert "How to read it" in done.stdout

    def test_json_on_standard_output(self, tmp_path):
        done = hintbench("run", "-s", "none", *QUICK, *SMALL, "--json", "-", cwd=tmp_path)
        assert json.loads(done.stdout)["results"][0]["strategy"] == "none"
        assert "How to read it" in done.stderr

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_plugin_that_raises_leaves_the_others_their_results(self, broken, jobs):
        done = hintbench(
            *("run", "-p", "broken.py", "-s", "none", "-s", "raises", *QUICK, "-w", "bulk", *SMALL),
            *("--jobs", jobs, "--json", "out.json"),
            cwd=broken,
        )
        assert done.returncode == 1
        error = without_notes(done.stderr)
        assert "plugin 'raises': guest_started: ValueError: on purpose" in error
        assert "Traceback" not in error
        content = json.loads((broken / "out.json").read_text())
        assert [result["workload"] for result in content["results"]] == ["churn", "bulk"]
        assert "failed" in done.stdout

    def test_debug_shows_where_a_plugin_raised(self, broken):
        done = hintbench(
            "run", "-p", "broken.py", "-s", "raises", *QUICK, *SMALL, "--debug", cwd=broken
        )
        assert done.returncode == 1
        assert "Traceback" in done.stderr
        assert "broken.py" in done.stderr

    def test_a_killed_worker_is_named_and_replaced(self, broken):
        done = hintbench(
            *("run", "-p", "broken.py", "-s", "dies", "-s", "none", "-s", "oracle", *QUICK, *SMALL),
            *("--jobs", 2, "--json", "out.json"),
            cwd=broken,
        )
        assert done.returncode == 1
        assert "worker process that ran dies on churn" in done.stderr
        assert "killed by SIGKILL" in done.stderr
        content = json.loads((broken / "out.json").read_text())
        assert [result["strategy"] for result in content["results"]] == ["none", "oracle"]

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_ctrl_c_keeps_what_was_finished(self, broken, jobs):
        command = [sys.executable, "-m", "hintbench.cli", "run", "-p", "broken.py"]
        command += ["-s", "none", "-s", "waits", "-s", "oracle", *QUICK, *SMALL]
        command += ["--jobs", str(jobs), "--json", "out.json"]
        script = (
            "import os, sys; os.environ['VICTIM'] = str(os.getpid());"
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", script, *command],
            cwd=broken,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 130
        assert time.monotonic() - began < 5
        content = json.loads((broken / "out.json").read_text())
        assert "none" in [result["strategy"] for result in content["results"]]
        assert "interrupted: " in done.stderr
        assert "Traceback" not in done.stderr
        assert "How to read it" in done.stdout

    def test_output_that_nobody_reads_any_more(self, tmp_path):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        process = subprocess.Popen(
            [sys.executable, "-m", "hintbench.cli", "list"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=tmp_path,
        )
        process.stdout.close()
        error = process.stderr.read().decode()
        process.stderr.close()
        assert process.wait(60) in (0, 1, -signal.SIGPIPE)
        assert "Traceback" not in error

    def test_a_terminal_that_knows_only_ascii(self, tmp_path):
        done = hintbench(
            "run", "-s", "none", *QUICK, *SMALL, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}
        )
        assert done.returncode == 0
        assert "How to read it" in done.stdout


class TestSpeed:
    def test_table_and_file(self, run_main, tmp_path, monkeypatch):
        from types import ModuleType, SimpleNamespace

        module = ModuleType("hintbench.speed")
        module.measure = lambda: [SimpleNamespace(name="bare replay", ns_per_operation=7.25)]
        monkeypatch.setitem(sys.modules, "hintbench.speed", module)
        status, output, _ = run_main("speed", "--json", tmp_path / "speed.json")
        assert status == 0
        assert re.search(r"bare replay +7\.2", output)
        content = json.loads((tmp_path / "speed.json").read_text())
        assert content["figures"] == [{"name": "bare replay", "ns_per_operation": 7.25}]


TRACE = """\
# tracer: nop
  a-1 [000] 10.000001: mm_page_alloc: page=0 pfn=0x1000 order=0 migratetype=1 gfp_flags=GFP_KERNEL
  a-1 [001] 10.500002: mm_page_free: page=0 pfn=0x1000 order=0
  a-1 [001] 10.600002: sched_switch: prev_comm=a
"""


class TestTrace:
    def test_info(self, run_main, tmp_path):
        (tmp_path / "trace.txt").write_text(TRACE)
        status, output, error = run_main("trace", "info", tmp_path / "trace.txt")
        assert (status, error) == (0, "")
        assert re.search(r"^lines +4$", output, re.MULTILINE)
        assert re.search(r"^time +500 ms on 2 CPUs$", output, re.MULTILINE)
        assert re.search(r"^  mm_page_alloc +1 +1$", output, re.MULTILINE)
        assert re.search(r"^left out +1 sched_switch$", output, re.MULTILINE)

    def test_import_and_info_agree(self, run_main, tmp_path):
        (tmp_path / "trace.txt").write_text(TRACE)
        status, output, _ = run_main(
            "trace", "import", tmp_path / "trace.txt", "-o", tmp_path / "trace.npz"
        )
        assert status == 0
        assert "wrote" in output
        assert "2 events of 4 lines" in output
        infos = [run_main("trace", "info", tmp_path / f"trace.{end}")[1] for end in ("txt", "npz")]
        assert infos[0] == infos[1]

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (b"", "is empty"),
            (b"\0\1\2", "binary"),
            (b"hello\n", "no event"),
            (None, "cannot be read"),
        ],
    )
    def test_what_is_no_trace(self, run_main, tmp_path, content, match):
        file = tmp_path / "trace.txt"
        if content is not None:
            file.write_bytes(content)
        for arguments in (["info", file], ["import", file, "-o", tmp_path / "out"]):
            status, output, error = run_main("trace", *arguments)
            assert (status, output) == (2, "")
            assert re.search(match, one_line(error))
        assert not (tmp_path / "out").exists()

    def test_numbering_of_migratetypes(self, run_main):
        status, _, error = run_main("trace", "info", "x", "--migratetypes", "new")
        assert status == 2
        assert "'new' is not one of modern, old" in one_line(error)

"""The command line as a user meets it: help, exit statuses, one line for each mistake."""

import json
import os
import re
import subprocess
import sys

import pytest

from hintbench import cli
from hintbench.core import BUILD


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
            (("new", "workload"), ["NAME"]),
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
            "heavy = {'numpy', 'pluggy', 'rich', 'Cython'} & set(sys.modules);"
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
            (["run", "--seed", "x"], "hintbench: --seed: 'x' is not a whole number"),
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
            (["run", "--seed", "3", "--seed", "-1"], "hintbench: --seed: -1 must be at least 0"),
            (["run", "--json", "absent/results.json"], "absent/results.json: cannot be written"),
            (["run", "-p", "absent.py"], "plugin 'absent.py': no such file"),
            (["run", "-p", "absent.module"], "no module named 'absent'"),
            (["run", "-s", "absent.py"], "plugin 'absent.py': no such file"),
            (["run", "-s", "absent:Mine"], "absent:Mine: module 'absent' cannot be imported"),
            (["run", "-w", "absent.py,order=9"], "plugin 'absent.py': no such file"),
            (["check", "none", "--schedules", "x"], "'--schedules': 'x' is not a whole number"),
            (["check", "none", "--seconds", "x"], "'--seconds': 'x' is not a number"),
            (["check", "none", "--seed", "1.5"], "'--seed': '1.5' is not a whole number"),
            (["new", "strategy", "My Strategy"], "cannot be a strategy's name"),
            (["new", "strategy", "class"], "it is a keyword of Python"),
            (["new", "strategy", "9lives"], "cannot be a strategy's name"),
            (["new", "strategy", "oracle"], "one of hintbench's own"),
            (["new", "strategy", "hintbench"], "hintbench.py would hide .* of hintbench"),
            (["new", "strategy", "json"], "json.py would hide the module 'json' of Python"),
            (["new", "workload", "numpy"], "numpy.py would hide the module 'numpy' of numpy"),
            (["new", "workload", "My Workload"], "cannot be a workload's name"),
            (["new", "workload", "memhog"], "one of hintbench's own workloads"),
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
        monkeypatch.setattr("hintbench.cli.run_commands.run_comparison", lambda *_, **__: 1 / 0)
        status, _, error = run_main("run")
        assert status == 1
        assert "internal error: ZeroDivisionError" in one_line(error)
        assert "--debug" in error

    def test_ctrl_c_outside_a_run(self, run_main, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("hintbench.cli.run_commands.run_comparison", interrupted)
        status, _, error = run_main("run")
        assert (status, error) == (130, "hintbench: stopped\n")


class TestList:
    def test_everything_with_its_parameters(self, run_main, monkeypatch):
        monkeypatch.delenv("COLUMNS", raising=False)
        status, output, _ = run_main("list")
        assert status == 0
        for name in ("none", "percpu-array-v9", "zone-confined-batching", "churn", "trace", "seed"):
            assert re.search(rf"^  {name} +\S", output, re.MULTILINE), name
        assert re.search(r"^      locked_return=false +true\|false: \S", output, re.MULTILINE)
        assert max(map(len, output.splitlines())) <= 120
        assert "no description" not in output

    def test_it_is_as_narrow_as_asked(self, run_main, monkeypatch):
        monkeypatch.setenv("COLUMNS", "60")
        _, output, _ = run_main("list")
        assert max(map(len, output.splitlines())) <= 60
        assert re.search(r"^      locked_return=false$", output, re.MULTILINE)

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
        assert "hintbench run -s none -s my_own.py" in output
        text = (tmp_path / "my_own.py").read_text()
        assert "class MyOwn(Strategy)" in text
        assert "$" not in text
        compile(text, "my_own.py", "exec")

    def test_a_workload(self, run_main, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        status, output, _ = run_main("new", "workload", "my-waves")
        assert (status, os.listdir(tmp_path)) == (0, ["my_waves.py"])
        assert "-w my_waves.py" in output
        text = (tmp_path / "my_waves.py").read_text()
        assert "class MyWaves(Workload)" in text
        assert "$" not in text

    def test_it_never_overwrites(self, run_main, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mine.py").write_text("precious")
        status, _, error = run_main("new", "strategy", "mine")
        assert status == 2
        assert "exists already" in one_line(error)
        assert (tmp_path / "mine.py").read_text() == "precious"


class TestSpeed:
    def test_table_and_file(self, run_main, tmp_path, monkeypatch):
        from hintbench import speed

        figure = speed.Figure("bare replay", 7.25, 7.0, 8.0, 1000, "0" * 16)
        monkeypatch.setattr(speed, "measure", lambda: [figure])
        status, output, _ = run_main("speed", "--json", tmp_path / "speed.json")
        assert status == 0
        assert re.search(r"bare replay +7\.2 +7\.0 +8\.0 +138", output)
        content = json.loads((tmp_path / "speed.json").read_text())
        assert (content["schema"], content["build"]) == (1, BUILD)
        assert content["figures"] == [figure._asdict()]
        assert "busy" not in output

    def test_a_busy_computer_is_told(self, run_main, monkeypatch):
        from hintbench import speed

        figure = speed.Figure("bare replay", 7.25, 7.0, 11.0, 1000, "0" * 16)
        monkeypatch.setattr(speed, "measure", lambda: [figure])
        _, output, _ = run_main("speed")
        assert "keeps this computer busy" in output


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

    def test_an_import_never_replaces_its_input(self, run_main, tmp_path):
        file, link = tmp_path / "trace.txt", tmp_path / "link.txt"
        file.write_text(TRACE)
        link.symlink_to(file)
        for output in (file, link):
            status, _, error = run_main("trace", "import", file, "-o", output)
            assert status == 2
            assert "is an input: name another file with -o" in one_line(error)
            assert file.read_text() == TRACE

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

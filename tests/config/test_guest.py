"""The guest's configuration: presets, files, layout, watermarks, and what is said of bad input."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hintbench.config.costs import Costs, HostConfig
from hintbench.config.experiment import Experiment
from hintbench.config.guest import PRESETS, GuestConfig, load_guest
from hintbench.config.layout import ZoneConfig, lowmem_reserves
from hintbench.config.quantities import counted, format_bytes, format_count, format_ns, parse_bytes
from hintbench.config.specs import PluginSpec
from hintbench.errors import GuestError, ParameterError, UnknownNameError

GIB = 1 << 30


def refusal(values, match):
    with pytest.raises(GuestError, match=match) as caught:
        load_guest(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestPresets:
    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_is_a_valid_guest(self, name):
        guest = load_guest(name)
        assert sum(zone.managed for zone in guest.layout()) == guest.memory_pages

    def test_default_is_large_enough_for_the_default_comparison(self):
        guest = load_guest()
        assert guest.memory >= 4 * GIB
        assert guest.kernel == "6.12"

    def test_seed_is_the_reviews_guest(self):
        guest = load_guest("seed")
        assert (guest.kernel, guest.host.kick) == ("5.0", "vcpu-thread")

    def test_overrides_replace_what_the_preset_says(self):
        guest = load_guest("seed", memory="2GiB", vcpus=8, kernel="6.12")
        assert (guest.memory, guest.vcpus, guest.kernel) == (2 * GIB, 8, "6.12")
        assert guest.host.kick == "vcpu-thread"

    def test_a_finished_guest_passes_through(self):
        guest = load_guest("numa")
        assert load_guest(guest) == guest
        assert load_guest(guest, vcpus=2).nodes == 2

    def test_a_dumped_guest_loads_again(self):
        for name in PRESETS:
            guest = load_guest(name)
            assert load_guest(guest.model_dump(mode="json")) == guest

    def test_unknown_preset_offers_the_nearest(self):
        with pytest.raises(UnknownNameError, match="did you mean 'small'"):
            load_guest("smal")


class TestLayout:
    def test_a_pc_of_8_gib(self):
        dma, dma32, normal = load_guest("default").layout()
        assert (dma.name, dma.start_pfn, dma.spanned_pages, dma.managed_pages) == (
            ("DMA", 1, 4095, 3840)
        )
        assert (dma32.name, dma32.start_pfn, dma32.end_pfn) == ("DMA32", 4096, 0xC0000)
        assert (normal.name, normal.start_pfn, normal.end_pfn) == ("Normal", 0x100000, 0x240000)

    def test_a_guest_of_3_gib_has_no_normal_zone(self):
        assert [zone.name for zone in load_guest("default", memory="3GiB").layout()] == [
            "DMA",
            "DMA32",
        ]

    @given(
        blocks=st.integers(64, 4096),
        nodes=st.integers(1, 4),
        movable_share=st.integers(0, 10),
    )
    def test_zones_tile_the_memory(self, blocks, nodes, movable_share):
        memory = blocks << 22
        movable = (memory * movable_share // 10) & ~((1 << 22) - 1)
        try:
            guest = load_guest({"memory": memory, "nodes": nodes, "movable": movable})
        except GuestError as error:
            assert "too small" in str(error)
            return
        zones = sorted(guest.layout(), key=lambda zone: zone.start_pfn)
        assert sum(zone.spanned_pages for zone in zones) == memory // 4096 - 1
        assert all(below.end_pfn <= above.start_pfn for below, above in pairwise(zones))
        assert all(zone.end_pfn % 1024 == 0 for zone in zones)
        assert {zone.node for zone in zones} == set(range(nodes))
        found = sum(zone.spanned_pages for zone in zones if zone.name == "Movable")
        assert movable // 4096 - 1024 * nodes < found <= movable // 4096

    def test_zones_one_by_one_decide_the_memory(self):
        guest = load_guest(
            {"zones": [{"name": "DMA32", "start_pfn": 4096, "spanned_pages": 65536}], "vcpus": 1}
        )
        assert guest.memory == 65536 * 4096
        assert load_guest(guest.model_dump()) == guest

    @pytest.mark.parametrize(
        ("zones", "match"),
        [
            ([], "zones is empty"),
            ([("DMA", 0, 5000), ("DMA32", 4096, 65536)], "DMA and DMA32 overlap"),
            ([("DMA", 0, 4096), ("DMA", 4096, 65536)], "DMA twice"),
            ([("DMA", 0, 4096), ("Normal", (1 << 31) - 4096, 4097)], "ends past the highest page"),
        ],
    )
    def test_impossible_zones(self, zones, match):
        names = ("name", "start_pfn", "spanned_pages")
        refusal({"zones": [dict(zip(names, zone, strict=True)) for zone in zones]}, match)

    def test_managed_more_than_spanned(self):
        zone = {"name": "DMA", "start_pfn": 0, "spanned_pages": 10, "managed_pages": 11}
        refusal({"zones": [zone]}, r"zones\[0\]: zone DMA manages 11 pages but spans only 10")

    def test_too_small_for_its_zones(self):
        zone = {"name": "Normal", "start_pfn": 0, "spanned_pages": 1 << 16}
        refusal({"zones": [zone], "memory": "128MiB"}, "too small for its zones")
        refusal({"memory": "1GiB", "movable": "1GiB"}, "too small for its zones.*1088 MiB")
        refusal({"memory": "128MiB", "nodes": 4}, "too small for its zones")

    def test_memory_of_a_guest_with_zones_stays(self):
        values = {"zones": [{"name": "Normal", "start_pfn": 0, "spanned_pages": 1 << 16}]}
        with pytest.raises(GuestError, match="memory cannot be replaced"):
            load_guest(values, memory="1GiB")


class TestWatermarks:
    def test_khugepaged_raises_them_as_on_the_traced_guest(self):
        # linux-6.12-1cpu-1gib: DMA 176 220 264, DMA32 11087 13858 16629. The kernel computed them
        # before it freed its init memory, hence the 1 % in DMA.
        zones = (
            ZoneConfig(name="DMA", start_pfn=1, spanned_pages=4095, managed_pages=3840),
            ZoneConfig(name="DMA32", start_pfn=4096, spanned_pages=258010, managed_pages=243996),
        )
        dma, dma32 = GuestConfig(zones=zones).layout()
        assert dma.watermark_min == pytest.approx(176, rel=0.02)
        assert dma32.watermark_min == pytest.approx(11087, rel=0.001)
        assert dma32.watermark_low == dma32.watermark_min + dma32.watermark_min // 4
        assert dma32.watermark_high == dma32.watermark_min + 2 * (dma32.watermark_min // 4)

    def test_the_plain_formula_below_512_mib(self):
        # linux-6.12-4cpu-512mib: DMA 22 27 32, DMA32 659 823 987.
        zones = (
            ZoneConfig(name="DMA", start_pfn=1, spanned_pages=4095, managed_pages=3840),
            ZoneConfig(name="DMA32", start_pfn=4096, spanned_pages=126938, managed_pages=114960),
        )
        dma, dma32 = GuestConfig(zones=zones).layout()
        assert (dma.watermark_min, dma.watermark_low, dma.watermark_high) == (22, 27, 32)
        assert dma32.watermark_min == pytest.approx(659, rel=0.02)

    def test_three_zones_with_huge_pages_keep_66_mib(self):
        zones = load_guest("default").layout()
        assert sum(zone.watermark_min for zone in zones) == pytest.approx(66 * 256, abs=3)

    def test_without_huge_pages_the_square_root(self):
        guest = load_guest({"memory": "4GiB", "huge_pages": False})
        kbytes = 4 * sum(zone.watermark_min for zone in guest.layout())
        assert kbytes == pytest.approx(8192, rel=0.005)

    def test_movable_keeps_a_small_min_since_it_is_outside_lowmem(self):
        values = {"memory": "4GiB", "movable": "1GiB"}
        movable = load_guest(values).layout()[-1]
        assert (movable.name, movable.watermark_min) == ("Movable", 128)
        assert load_guest(values, kernel="5.0").layout()[-1].watermark_min > 128

    def test_given_watermarks_stay(self):
        marks = {"watermark_min": 1, "watermark_low": 2, "watermark_high": 3}
        zone = {"name": "Normal", "start_pfn": 0, "spanned_pages": 1 << 16, **marks}
        (found,) = load_guest({"zones": [zone]}).layout()
        assert (found.watermark_min, found.watermark_low, found.watermark_high) == (1, 2, 3)

    @pytest.mark.parametrize(
        ("marks", "match"),
        [
            ((1, None, 3), "all three"),
            ((3, 2, 4), "min <= low <= high"),
            ((70000,) * 3, "too small"),
        ],
    )
    def test_impossible_watermarks(self, marks, match):
        names = ("watermark_min", "watermark_low", "watermark_high")
        zone = {"name": "Normal", "start_pfn": 0, "spanned_pages": 1 << 16}
        zone |= {k: v for k, v in zip(names, marks, strict=True) if v is not None}
        refusal({"zones": [zone]}, match)

    def test_lowmem_reserves(self):
        zones = load_guest("default").layout()
        dma, dma32, normal = lowmem_reserves(zones)
        above = zones[1].managed, zones[2].managed
        assert dma == (0, above[0] // 256, sum(above) // 256, sum(above) // 256)
        assert dma32 == (0, 0, above[1] // 256, above[1] // 256)
        assert normal == (0, 0, 0, 0)


class TestFiles:
    def test_a_file_lies_over_a_preset(self, tmp_path):
        file = tmp_path / "guest.toml"
        file.write_text('preset = "seed"\nmemory = "2GiB"\n[host]\nqueue_capacity = 2\n')
        guest = load_guest(str(file))
        assert (guest.memory, guest.kernel) == (2 * GIB, "5.0")
        assert guest.host == HostConfig(kick="vcpu-thread", descriptor_bytes=4096, queue_capacity=2)

    def test_kernel_may_be_written_as_a_number(self, tmp_path):
        file = tmp_path / "guest.toml"
        file.write_text("kernel = 5.0")
        assert load_guest(file).kernel == "5.0"

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            (
                b'[host]\nkick = "vpcu"',
                "host.kick: 'vpcu' is not one of vcpu-thread, device-thread, hypercall",
            ),
            (b"[host]\nkik = 1", "host.kik: there is no such setting: did you mean 'kick'"),
            (b"[costs]\npcp_hit = 3", "costs.pcp_hit: .*did you mean 'pcp_hit_ns'"),
            (b"[costs]\npcp_hit_ns = -3", r"costs.pcp_hit_ns: -3 is out of range 0\.\.1000000000"),
            (b"vcpus = 300", r"vcpus: 300 is out of range 1\.\.256"),
            (b"vcpus = 'four'", "vcpus: 'four' is not a whole number"),
            (b"memory = '8GB'", "did you mean '8GiB'"),
            (b"memory = '1KiB'", r"memory: 1 KiB is out of range 64 MiB\.\.8 TiB"),
            (b"memory = '65MiB'", "multiple of 4 MiB"),
            (b"preset = ['seed']", r"preset is \['seed'\], not a name such as 'default'"),
            (b"preset = 'sed'", "unknown preset 'sed': did you mean 'seed'"),
            (b"host = 3", "host: 3 is not a table"),
            (b"[[zones]]\nname = 'High'", r"zones\[0\].name: 'High' is not one of DMA"),
            (b"vcpus = ", "not TOML: Invalid value"),
            (b"", "empty"),
            (b"  \n", "empty"),
            (b"\x7fELF\0\0", "not a TOML file"),
            (b"a = '\xff'", "not UTF-8"),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(self, tmp_path, content, match):
        file = tmp_path / "guest.toml"
        file.write_bytes(content)
        message = refusal(str(file), match)
        assert message.startswith(str(file))

    def test_no_such_file_and_no_file_at_all(self, tmp_path):
        refusal(str(tmp_path / "absent.toml"), "absent.toml: cannot be read: No such file")
        refusal(str(tmp_path), "cannot be read: Is a directory")

    def test_many_problems_are_cut_short(self):
        message = refusal({"a": 1, "b": 2, "c": 3, "d": 4}, "and 1 more")
        assert message.count("there is no such setting") == 3


class TestCosts:
    @pytest.mark.parametrize("model", [Costs, HostConfig])
    def test_every_cost_names_unit_range_and_source(self, model):
        for name, field in model.model_fields.items():
            assert field.description
            if name.endswith("_ns"):
                extra = field.json_schema_extra
                assert extra["unit"] == "ns"
                assert extra["plausible_low"] <= field.default <= extra["plausible_high"], name
                assert len(extra["source"]) > 3
                assert "plausible" in field.description

    def test_frozen(self):
        with pytest.raises(ValueError, match="frozen"):
            Costs().pcp_hit_ns = 3


class TestSpecs:
    @pytest.mark.parametrize(
        ("text", "kind", "name", "parameters"),
        [
            ("oracle", "strategy", "oracle", {}),
            ("oracle,at_order=9", "strategy", "oracle", {"at_order": "9"}),
            ("a, b = 1 ,c=x=y", "strategy", "a", {"b": "1", "c": "x=y"}),
            ("a,at-order=9", "strategy", "a", {"at_order": "9"}),
            ("churn,mix=0:5,3:1,live=4", "workload", "churn", {"mix": "0:5,3:1", "live": "4"}),
            (
                "trace:/a,b.txt,exact=true",
                "workload",
                "trace",
                {"path": "/a,b.txt", "exact": "true"},
            ),
            ("trace:C:/x", "workload", "trace", {"path": "C:/x"}),
        ],
    )
    def test_parse(self, text, kind, name, parameters):
        spec = PluginSpec.parse(text, kind)
        assert (spec.name, spec.parameters) == (name, parameters)
        assert PluginSpec.parse(str(spec), kind) == spec

    @pytest.mark.parametrize(
        "text", ["", ",a=1", "oracle,fast", "oracle,a=1,a=2", "trace:", "no such", "x:y"]
    )
    def test_what_cannot_be_read(self, text):
        with pytest.raises(ParameterError) as caught:
            PluginSpec.parse(text, "workload")
        assert "\n" not in str(caught.value)

    def test_cells_are_every_combination(self):
        none, oracle, churn = (PluginSpec(name=name) for name in ("none", "oracle", "churn"))
        cells = list(
            Experiment(strategies=(none, oracle), workloads=(churn,), seeds=(1, 2)).cells()
        )
        assert [str(cell) for cell in cells] == [
            f"{name} on churn, seed {seed}" for seed in (1, 2) for name in ("none", "oracle")
        ]


class TestQuantities:
    @pytest.mark.parametrize(
        ("text", "size"),
        [
            ("8GiB", 8 * GIB),
            ("512 MiB", 512 << 20),
            ("1.5GiB", 3 * GIB // 2),
            ("4k", 4096),
            ("8G", 8 * GIB),
            ("4096", 4096),
            ("12B", 12),
            (77, 77),
            ("1TiB", 1 << 40),
        ],
    )
    def test_parse_bytes(self, text, size):
        assert parse_bytes(text) == size

    @pytest.mark.parametrize(
        "text", ["", "GiB", "8GB", "-1GiB", "1.0000001KiB", "8 gigs", None, 1.5, True]
    )
    def test_what_is_no_size(self, text):
        with pytest.raises(ValueError):
            parse_bytes(text)

    @given(st.integers(0, 1 << 50))
    def test_written_bytes_are_near(self, size):
        written = format_bytes(size).replace(" B", "B")
        number = float(written.rstrip("KMGTiB "))
        unit = written.split(" ")[-1] if " " in written else "B"
        factor = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}[unit]
        assert number * factor == pytest.approx(size, rel=0.01)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (0, "0"),
            (113, "113 ns"),
            (999, "999 ns"),
            (1000, "1 µs"),
            (999_700, "1 ms"),
            (2_410_000, "2.41 ms"),
            (61_000_000_000, "61 s"),
            (0.5, "0.5 ns"),
        ],
    )
    def test_format_ns(self, value, text):
        assert format_ns(value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(0, "0"), (99_999, "99,999"), (123_456, "123k"), (2.5, "2.5"), (7_000_000, "7M")],
    )
    def test_format_count(self, value, text):
        assert format_count(value) == text

    @pytest.mark.parametrize(
        ("number", "text"), [(0, "no page"), (1, "1 page"), (2, "2 pages"), (4096, "4,096 pages")]
    )
    def test_counted(self, number, text):
        assert counted(number, "page") == text

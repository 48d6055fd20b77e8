"""What workloads and their settings refuse, and what they say then."""

import pytest

from hintbench.errors import ParameterError
from hintbench.workload import WorkloadSetting

from .classes import workload_class

MIB = 256
GIB = 1024 * MIB
MODULES = ("bulk", "repeat", "rand", "page_fault1", "memhog", "churn", "slab", "zones")


CLASSES = {workload_class(module).name: workload_class(module) for module in MODULES}


@pytest.mark.parametrize(
    ("name", "parameters", "setting", "message"),
    [
        ("bulk", {"order": 10}, WorkloadSetting(8 * MIB, 4), "choose order=8 or lower"),
        ("bulk", {}, WorkloadSetting(8, 16), "choose fewer vCPUs"),
        ("rand", {"order": 10}, WorkloadSetting(4 * MIB, 1), "no block of order 10"),
        ("repeat", {"order": 10}, WorkloadSetting(4 * MIB, 2), "no room for a block of order 10"),
        ("page-fault1", {}, WorkloadSetting(256 * MIB, 4), "choose mapping_mib=56 or less"),
        ("page-fault1", {}, WorkloadSetting(4 * MIB, 16), "choose fewer tasks"),
        ("page-fault1", {"tasks": 3}, WorkloadSetting(GIB, 2), "tasks=3, but the guest has 2"),
        ("memhog", {"processes": 9}, WorkloadSetting(GIB, 2), "processes=9, but the guest has 2"),
        ("memhog", {}, WorkloadSetting(256, 1), "less than 2 MiB for each of 1 processes"),
        ("churn", {}, WorkloadSetting(200, 64), "too small for one live block"),
        ("churn", {}, WorkloadSetting(512, 4), "lower live_share or remote_percent"),
        ("slab", {}, WorkloadSetting(4 * MIB, 1), "it needs 9 MiB, or fewer vCPUs"),
        ("zones", {}, WorkloadSetting(16 * MIB, 8), "or fewer vCPUs"),
        ("zones", {"blocks_share": 0.9}, WorkloadSetting(GIB, 1), "must be at most fill_share"),
        ("zones", {"growth_share": 0.6}, WorkloadSetting(GIB, 1), "at most blocks_share"),
    ],
)
def test_a_guest_too_small_is_refused_with_what_would_fit(name, parameters, setting, message):
    with pytest.raises(ParameterError, match=message) as caught:
        CLASSES[name](parameters).program(setting)
    assert str(caught.value).startswith(f"workload '{name}': ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_are_described_and_checked(name):
    cls = CLASSES[name]
    assert cls.summary.endswith((".", ")"))
    for field in cls.Parameters.model_fields.values():
        assert field.description
    with pytest.raises(ParameterError, match=f"workload '{name}': .*did you mean"):
        cls(operation=5)
    with pytest.raises(ParameterError, match="operations"):
        cls(operations=0)
    with pytest.raises(ParameterError, match="operations"):
        cls({"operations": "many"})


def test_none_can_be_typed_where_it_is_listed():
    """``hintbench list`` prints ``passes=none``."""
    memhog = CLASSES["memhog"]
    assert memhog({"passes": "none"}).parameters == memhog().parameters
    with pytest.raises(ParameterError, match="'none' is not a whole number"):
        memhog({"operations": "none"})


def test_a_mix_is_read_from_text_and_its_errors_name_the_entry():
    churn = CLASSES["churn"](mix="0:90:0.25:user/3:10:0.1:slab")
    assert [entry.order for entry in churn.parameters.mix] == [0, 3]
    with pytest.raises(ParameterError, match=r"mix\[1\]\.order"):
        CLASSES["churn"](mix="0:90:0.25:user/11:10:0.1:slab")
    with pytest.raises(ParameterError, match=r"mix\[0\]\.kind"):
        CLASSES["churn"](mix="0:90:0.25:slob")
    with pytest.raises(ParameterError, match=r"'0:90:0\.25:user:x' is not order:weight:live_share"):
        CLASSES["churn"](mix="0:90:0.25:user:x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"memory_pages": 0, "vcpus": 1}, "memory_pages"),
        ({"memory_pages": 1, "vcpus": 0}, "vcpus"),
        ({"memory_pages": 1, "vcpus": 1, "seed": -1}, "seed"),
        ({"memory_pages": 1, "vcpus": 1, "operations": 0}, "operations"),
        ({"memory_pages": 1, "vcpus": 1, "zone_pages": (1,)}, "zone_pages"),
        ({"memory_pages": 1, "vcpus": 1, "zones": ("Normal", "Movable")}, "zone_pages"),
    ],
)
def test_settings_are_checked(values, message):
    with pytest.raises(ParameterError, match=message):
        WorkloadSetting(**values)


def test_pages_of_a_zone():
    laid_out = WorkloadSetting(2 * GIB, 1)
    pages = [laid_out.pages_of(zone) for zone in ("DMA", "DMA32", "Normal", "Movable")]
    assert pages == [3840, 2 * GIB - 3840, 0, 0]
    assert WorkloadSetting(8 * GIB - 4096, 4).pages_of("DMA32") == 0xC0000 - 4096
    told = WorkloadSetting(10, 1, zones=("DMA32", "Normal", "Normal"), zone_pages=(1, 4, 5))
    assert told.pages_of("Normal") == 9
    assert told.pages_of("DMA") == 0

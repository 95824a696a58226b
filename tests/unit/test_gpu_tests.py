"""The tests for a card on a stand-in for one: here they show what is wrong with themselves, and tensors that
are on the wrong device. Kernels, memory and speed of a card are not shown by them.
"""

from __future__ import annotations

import pytest

from tests.gpu.test_goldens_gpu import (  # noqa: F401 (collected as tests of this file)
    dtype,
    test_latte_t2v_on_the_card,
    test_open_sora_t2v_on_the_card,
    test_stdit3_on_the_card,
)
from tests.gpu.test_metrics_gpu import (  # noqa: F401
    test_double_precision_gives_the_same,
    test_lpips_is_near,
)
from tests.gpu.test_opensora_gpu import test_offloading_leaves_the_device_empty  # noqa: F401
from tests.gpu.test_steps_gpu import (  # noqa: F401
    test_texts_of_several_lengths_go_without_a_mask,
    test_the_peak_of_a_call_is_that_of_its_tensors,
    test_weights_of_eight_bits_come_back_as_on_a_cpu,
    test_what_a_cache_keeps_in_the_memory_of_the_host_changes_nothing,
)
from tests.standin import stand_in


@pytest.fixture(autouse=True)
def card():
    with stand_in("cuda") as machine:
        yield machine

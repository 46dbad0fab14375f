"""Says what differs, also where a helper asserts."""

import pytest

pytest.register_assert_rewrite("crash.killing")

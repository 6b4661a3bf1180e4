import pytest

# Asserts that say what they compared, outside the tests as well.
pytest.register_assert_rewrite("support.verdicts")

import pytest
import support


@pytest.fixture
def suite(tmp_path):
    """A folder of test files, and pytest to run them with, watched or not."""
    made = support.Suite(tmp_path)
    yield made
    made.close()

"""The samples of all benchmarks, written once."""

import pytest


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """Name -> folder of the benchmark's sample."""
    pytest.importorskip(
        "pyarrow", reason="pyarrow writes the Parquet file of Ref-L4: pip install 'pam-kit[benchmarks]'"
    )
    pytest.importorskip(
        "scipy", reason="SciPy writes the MATLAB files of Total-Text: pip install 'pam-kit[benchmarks]'"
    )
    from pam_kit.evaluation.benchmarks.samples.write import write_samples

    return write_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture
def copy_of(samples, tmp_path):
    """``copy_of("lvis")`` -> a copy of that sample to spoil."""
    import shutil

    return lambda name: shutil.copytree(samples[name], tmp_path / name)

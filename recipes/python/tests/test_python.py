"""The tools work without a network, as nodes have none."""


def test_a_venv_is_made_and_has_its_own_pip(host):
    host.check_output("python3 -m venv /tmp/v")
    assert "/tmp/v/" in host.check_output("/tmp/v/bin/pip --version")


def test_pip_installs_what_is_at_hand(host):
    host.check_output(
        "mkdir -p /tmp/one; cd /tmp/one; echo 'x = 1' > one.py; "
        'printf \'from setuptools import setup\\nsetup(name="one", version="1", py_modules=["one"])\\n\' > setup.py; '
        "python3 -m pip install --no-index --no-build-isolation --root-user-action=ignore --target /tmp/t ."
    )
    assert host.check_output("PYTHONPATH=/tmp/t python3 -c 'import one; print(one.x)'") == "1"


def test_the_library_is_whole(host):
    host.check_output("python3 -c 'import ssl, sqlite3, lzma, ctypes, zoneinfo, multiprocessing'")

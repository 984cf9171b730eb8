"""What a Xen host needs is there, and no more of libvirt than that. How it runs is seen in tests/xen."""


def test_libvirt_has_the_drivers_of_xen_and_of_networks_alone(host):
    found = host.file("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver").listdir()
    assert sorted(found) == ["libvirt_driver_libxl.so", "libvirt_driver_network.so"]


def test_a_plain_processor_has_a_model(host):
    models = host.check_output("grep -o x86_.*xml /usr/share/libvirt/cpu_map/index.xml").split()
    assert models.index("x86_plain64.xml") < models.index("x86_486.xml")


def test_the_tools_are_those_of_the_hypervisor(host):
    assert host.file("/boot/xen-4.17-amd64.gz").exists
    assert host.file("/usr/lib/xen-4.17/bin/xenstored").exists


def test_its_programs_start(host):
    for command in ("qemu-img --version", "nft --version", "tc -V", "zstd --version"):
        host.check_output(command)

# SPDX-License-Identifier: GPL-2.0-or-later
#
# The devices of the lab's QEMU. Used with --without-default-devices, so that
# what is not named here and not selected by what is named is not built.

# The machine. It selects its own chipset, AHCI, ACPI, fw_cfg and serial port.
CONFIG_Q35=y

# Virtio over PCI, and the devices that a guest of the lab has.
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BALLOON=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_NET=y
CONFIG_VIRTIO_RNG=y
CONFIG_VIRTIO_SERIAL=y

# Ports that a device can be plugged into, and out of, while the guest runs.
CONFIG_PCIE_PORT=y

# A guest that ends with an exit status of its own (isa-debug-exit).
CONFIG_ISA_DEBUG=y

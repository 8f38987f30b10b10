# SPDX-License-Identifier: GPL-2.0-or-later
"""What is built: kernel, driver, QEMU, guest image, initrd. Each module makes one of them."""

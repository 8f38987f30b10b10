/*
 * QTest test cases for the message virtqueue of the virtio balloon
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/host-utils.h"
#include "libqtest.h"
#include "qobject/qdict.h"
#include "libqos/libqos-pc.h"
#include "libqos/pci-pc.h"
#include "libqos/virtio.h"
#include "libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_balloon.h"
#include "standard-headers/linux/virtio_config.h"

#define SLOT 4
#define TIMEOUT_US (30 * 1000 * 1000)
#define MESSAGE_VQ (1ull << VIRTIO_BALLOON_F_MESSAGE_VQ)
#define STATS_VQ (1ull << VIRTIO_BALLOON_F_STATS_VQ)
#define REPORTING (1ull << VIRTIO_BALLOON_F_REPORTING)

typedef struct Balloon {
    QOSState *qs;
    QVirtioPCIDevice *pci;
    QVirtQueue *vq;
} Balloon;

/* A driver that accepts @features and finds the message queue at @index. */
static void start(Balloon *b, uint64_t features, uint16_t index)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(SLOT, 0) };

    b->qs = qtest_pc_boot("-machine q35 -nodefaults "
                          "-device virtio-balloon-pci,id=balloon,addr=4,"
                          "message-vq=on,free-page-reporting=on");
    b->pci = virtio_pci_new(b->qs->pcibus, &addr);
    g_assert_nonnull(b->pci);
    qvirtio_pci_device_enable(b->pci);
    qvirtio_start_device(&b->pci->vdev);
    qvirtio_set_features(&b->pci->vdev,
                         features | (1ull << VIRTIO_F_VERSION_1));
    b->vq = qvirtqueue_setup(&b->pci->vdev, &b->qs->alloc, index);
    qvirtio_set_driver_ok(&b->pci->vdev);
}

static void stop(Balloon *b)
{
    qvirtqueue_cleanup(b->pci->vdev.bus, b->vq, &b->qs->alloc);
    qvirtio_pci_device_disable(b->pci);
    qos_object_destroy(&b->pci->obj);
    qtest_shutdown(b->qs);
}

static void send_buffer(Balloon *b, const void *data, size_t size)
{
    QTestState *qts = b->qs->qts;
    uint64_t buffer = guest_alloc(&b->qs->alloc, size);
    uint32_t head;

    qtest_memwrite(qts, buffer, data, size);
    head = qvirtqueue_add(qts, b->vq, buffer, size, false, false);
    qvirtqueue_kick(qts, &b->pci->vdev, b->vq, head);
    qvirtio_wait_used_elem(qts, &b->pci->vdev, b->vq, head, NULL, TIMEOUT_US);
    guest_free(&b->qs->alloc, buffer);
}

static void send_message(Balloon *b, uint32_t message)
{
    uint32_t le = cpu_to_le32(message);

    send_buffer(b, &le, sizeof(le));
}

static void assert_event(Balloon *b, const char *level)
{
    QDict *event = qtest_qmp_eventwait_ref(b->qs->qts, "BALLOON_PRESSURE");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "level"), ==, level);
    qobject_unref(event);
}

static void assert_counted(Balloon *b, const char *name, uint64_t count)
{
    QDict *stats = qtest_qmp_assert_success_ref(
        b->qs->qts,
        "{ 'execute': 'qom-get', 'arguments': "
        "{ 'path': '/machine/peripheral/balloon', "
        "  'property': 'message-stats' } }");

    g_assert_cmpint(qdict_get_int(stats, name), ==, count);
    qobject_unref(stats);
}

static void test_events(void)
{
    Balloon b;

    start(&b, STATS_VQ | REPORTING | MESSAGE_VQ, 4);
    send_message(&b, VIRTIO_BALLOON_MSG_PRESSURE);
    assert_event(&b, "low");
    send_message(&b, VIRTIO_BALLOON_MSG_PRESSURE_MEDIUM);
    assert_event(&b, "medium");
    send_message(&b, VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL);
    assert_event(&b, "critical");
    stop(&b);
}

static void test_no_message(void)
{
    const uint8_t part[3] = { VIRTIO_BALLOON_MSG_PRESSURE };
    Balloon b;

    start(&b, STATS_VQ | REPORTING | MESSAGE_VQ, 4);
    send_message(&b, 0);
    send_message(&b, VIRTIO_BALLOON_MSG_PRESSURE_CRITICAL + 1);
    send_buffer(&b, part, sizeof(part));
    assert_counted(&b, "unknown", 2);
    assert_counted(&b, "truncated", 1);
    assert_counted(&b, "low", 0);
    stop(&b);
}

/* Declined features have no virtqueue that would be counted. */
static void test_index(const void *features)
{
    uint64_t accepted = *(const uint64_t *)features;
    Balloon b;

    start(&b, accepted | MESSAGE_VQ, 2 + ctpop64(accepted));
    send_message(&b, VIRTIO_BALLOON_MSG_PRESSURE);
    assert_counted(&b, "low", 1);
    stop(&b);
}

int main(int argc, char **argv)
{
    static const uint64_t none, stats = STATS_VQ, reporting = REPORTING;

    g_test_init(&argc, &argv, NULL);

    qtest_add_func("virtio-balloon-message/events", test_events);
    qtest_add_func("virtio-balloon-message/no-message", test_no_message);
    qtest_add_data_func("virtio-balloon-message/index/none", &none,
                        test_index);
    qtest_add_data_func("virtio-balloon-message/index/stats", &stats,
                        test_index);
    qtest_add_data_func("virtio-balloon-message/index/reporting", &reporting,
                        test_index);

    return g_test_run();
}

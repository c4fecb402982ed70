"""Names that other systems rely on: tasks, queues, Redis keys."""

from typing import Final

IMPORT_IMAGE: Final = "ims.import_image"
SUBMIT_IMPORT: Final = "ims.submit_import"
POLL_IMPORT: Final = "ims.poll_import"
SWEEP: Final = "ims.sweep"
# Requested from a worker, because only workers hold credentials.
CHECK_CLOUD: Final = "ims.check_cloud"
RESUME: Final = "ims.resume"
GC: Final = "ims.gc"
FIND_IMAGES: Final = "ims.find_images"
DELIVER_WEBHOOK: Final = "ims.deliver_webhook"
WATCH: Final = "ims.watch"
WATCH_PAGE: Final = "ims.watch_page"
WATCH_OBJECT: Final = "ims.watch_object"
CHECK_WATCH: Final = "ims.check_watch"

# Separate queues, so that a backlog of submissions never delays a poll.
SUBMIT_QUEUE: Final = "ims.submit"
POLL_QUEUE: Final = "ims.poll"
HOUSEKEEPING_QUEUE: Final = "ims.housekeeping"
QUEUES: Final = (SUBMIT_QUEUE, POLL_QUEUE, HOUSEKEEPING_QUEUE)

QUEUE_OF: Final = {
    IMPORT_IMAGE: SUBMIT_QUEUE,
    SUBMIT_IMPORT: SUBMIT_QUEUE,
    POLL_IMPORT: POLL_QUEUE,
    SWEEP: HOUSEKEEPING_QUEUE,
    CHECK_CLOUD: HOUSEKEEPING_QUEUE,
    RESUME: HOUSEKEEPING_QUEUE,
    GC: HOUSEKEEPING_QUEUE,
    FIND_IMAGES: HOUSEKEEPING_QUEUE,
    DELIVER_WEBHOOK: HOUSEKEEPING_QUEUE,
    WATCH: HOUSEKEEPING_QUEUE,
    WATCH_PAGE: HOUSEKEEPING_QUEUE,
    WATCH_OBJECT: HOUSEKEEPING_QUEUE,
    CHECK_WATCH: HOUSEKEEPING_QUEUE,
}

# ZSET: import id → due time in ms of the Redis server's clock.
DUE_KEY: Final = "ims-import:due"
# HASH: import id → generation of the only message that may poll.
GENERATION_KEY: Final = "ims-import:generation"
# HASH: import id → JSON {percent, source, eta_s, polls, last_poll_at, failures}, which change too
# often for the ledger.
LIVE_KEY: Final = "ims-import:live"
# STRING with a TTL: the worker whose scheduler is elected.
LEADER_KEY: Final = "ims-import:leader"
# STRING: the UUID of the ledger that the workers use.
LEDGER_KEY: Final = "ims-import:ledger"
# STRING with a TTL, one per bucket rule: the run that lists the bucket.
WATCH_KEY: Final = "ims-import:watch"

# Key of the image tag that identifies the image of an import. Never change it: images have it.
IMPORT_ID_TAG: Final = "ims-import-id"

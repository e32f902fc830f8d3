"""The namespace: entities by name, topics that hand copies to their subscriptions, and the passing of time.

Semantics only: no sockets, no clock of its own, nothing of AMQP but the sections of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from emulators.servicebus import entities
from emulators.servicebus.entities import MAX_QUEUE_BYTES, CorrelationFilter, Entities, QueueOptions
from emulators.servicebus.errors import NOT_ALLOWED, NOT_FOUND, AmqpError
from emulators.servicebus.journal import Journal, NoJournal
from emulators.servicebus.message import Message, Property, identifier
from emulators.servicebus.message_queue import MessageQueue, Surroundings


class Broker:
    """All entities of a namespace. Names and paths are compared without case."""

    def __init__(
        self,
        layout: Entities,
        *,
        clock: Callable[[], int],
        journal: Journal | None = None,
        max_queue_bytes: int = MAX_QUEUE_BYTES,
    ) -> None:
        """`clock` gives milliseconds since the Unix epoch; `max_queue_bytes` bounds each queue and subscription."""
        self._clock = clock
        self._queues: dict[str, MessageQueue] = {}
        self._subscriptions: dict[str, MessageQueue] = {}
        self._topics: dict[str, Topic] = {}
        self._awake: set[MessageQueue] = set()
        surroundings = Surroundings(clock, journal or NoJournal(), self._awake.add, max_queue_bytes)
        for queue in layout.queues:
            self._queues[queue.name.lower()] = MessageQueue(queue.name, queue.options, surroundings)
        for topic in layout.topics:
            self._topics[topic.name.lower()] = made = Topic(topic, surroundings)
            for path, subscription in made.subscriptions():
                self._subscriptions[path.lower()] = subscription

    def source(self, path: str) -> MessageQueue:
        """What can be received from: a queue, a subscription, or the dead letters of either."""
        found = self.entity(path)
        if isinstance(found, Topic):
            raise AmqpError(NOT_ALLOWED, f"'{path}' is a topic; receive from one of its subscriptions.")
        return found

    def destination(self, path: str) -> MessageQueue:
        """What can be sent to: a queue or a topic."""
        found = self.entity(path)
        if path.lower() not in self._queues and not isinstance(found, Topic):
            raise AmqpError(NOT_ALLOWED, f"'{path}' does not take messages from senders; send to the queue or topic.")
        return found

    def entity(self, path: str) -> MessageQueue:
        """The entity at a path; raises `AmqpError` (not found)."""
        key = path.lower()
        owner = key.removesuffix("/$deadletterqueue")
        found = self._queues.get(owner) or self._subscriptions.get(owner) or self._topics.get(owner)
        if found is not None and owner != key:
            found = found.dead_letters
        if found is None:
            raise AmqpError(NOT_FOUND, f"The messaging entity '{path}' could not be found.")
        return found

    def pump(self) -> None:
        """Deliver what can be delivered."""
        while self._awake:
            self._awake.pop().pump()

    def wake(self, queue: MessageQueue) -> None:
        """A receiver of this queue can take messages again."""
        self._awake.add(queue)

    def tick(self) -> None:
        """Apply the passing of time to every entity."""
        now = self._clock()
        for found in (*self._queues.values(), *self._topics.values(), *self._subscriptions.values()):
            found.tick(now)
            if found.dead_letters is not None:
                found.dead_letters.tick(now)


class Topic(MessageQueue):
    """A topic: what arrives is copied to the subscriptions whose filters match; only its schedule stays here."""

    def __init__(self, topic: entities.Topic, surroundings: Surroundings) -> None:
        options = QueueOptions(default_ttl_ms=topic.default_ttl_ms, duplicate_window_ms=topic.duplicate_window_ms)
        super().__init__(topic.name, options, surroundings)
        self.dead_letters = None
        self._subscriptions: list[tuple[MessageQueue, tuple[CorrelationFilter, ...]]] = []
        for subscription in topic.subscriptions:
            path = f"{topic.name}/Subscriptions/{subscription.name}"
            queue = MessageQueue(path, _limited(subscription.options, topic.default_ttl_ms), surroundings)
            self._subscriptions.append((queue, subscription.filters))

    def subscriptions(self) -> list[tuple[str, MessageQueue]]:
        """The subscriptions and their paths."""
        return [(queue.path, queue) for queue, _ in self._subscriptions]

    def admit(self, messages: Sequence[Message]) -> None:
        """Raise `AmqpError` if the schedule or one of the subscriptions cannot take these messages."""
        super().admit(messages)
        for queue, filters in self._subscriptions:
            queue.reserve_space(sum(message.size for message in messages if matches(filters, message)))

    def arrive(self, message: Message, sequence_number: int, now: int) -> None:
        """Hand a copy to every subscription that wants it."""
        for queue, filters in self._subscriptions:
            if matches(filters, message):
                queue.receive_copy(message, now)


def matches(filters: Sequence[CorrelationFilter], message: Message) -> bool:
    """Whether a subscription with these filters takes the message; without filters it takes all."""
    return not filters or any(_matches(item, message) for item in filters)


def _matches(item: CorrelationFilter, message: Message) -> bool:
    for name, wanted in item.system.items():
        value = message.property(Property[name.upper()])
        if name in ("message_id", "correlation_id"):
            value = identifier(value)
        if value != wanted:
            return False
    if not item.application:
        return True
    found = message.application_properties()
    # bool is an int in Python; for a filter, true is not 1.
    return all(
        found.get(key) == wanted and isinstance(found[key], bool) == isinstance(wanted, bool)
        for key, wanted in item.application.items()
    )


def _limited(options: QueueOptions, topic_ttl_ms: int | None) -> QueueOptions:
    """The options of a subscription under the time to live of its topic."""
    given = [ttl for ttl in (options.default_ttl_ms, topic_ttl_ms) if ttl is not None]
    return QueueOptions(
        lock_ms=options.lock_ms,
        max_delivery_count=options.max_delivery_count,
        requires_session=options.requires_session,
        dead_letter_on_expiration=options.dead_letter_on_expiration,
        default_ttl_ms=min(given) if given else None,
        duplicate_window_ms=None,
    )

"""Tasks that use Django's models. A task may run twice (`acks_late`), so each looks first whether it is done."""

from celery import shared_task
from django.db import connection, transaction
from django.utils import timezone

from orders.models import Order


@shared_task
def ship(order_id, seconds=0.0):
    """Ships an order once. `seconds` is how long the database takes: a slow query's stand-in."""
    with transaction.atomic():
        order = Order.objects.select_for_update().get(pk=order_id)
        if order.shipped is not None:
            return
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(%s)", [seconds])
        order.shipped = timezone.now()
        order.save()


def place():
    """As a view does it: the task is sent once the order can be seen by others."""
    with transaction.atomic():
        order = Order.objects.create()
        transaction.on_commit(lambda: ship.delay(order.pk))
    return order

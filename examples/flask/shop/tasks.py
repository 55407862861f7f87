"""Tasks in an application context. A task may run twice (`acks_late`), so each looks first whether it is done."""

from celery import shared_task

from shop.database import connect


@shared_task
def ship(order_id, seconds=0.0):
    """Ships an order once. `seconds` is how long the database takes: a slow query's stand-in."""
    connection = connect()
    (shipped,) = connection.execute("SELECT shipped FROM orders WHERE id = %s FOR UPDATE", [order_id]).fetchone()
    if shipped is None:
        connection.execute("SELECT pg_sleep(%s)", [seconds])
        connection.execute("UPDATE orders SET shipped = clock_timestamp() WHERE id = %s", [order_id])
    connection.commit()

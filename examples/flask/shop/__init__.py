"""A Flask app with a factory. `create_app` is what gunicorn calls; `shop.worker` calls it for Celery."""

import os

from flask import Flask

from shop import database
from shop.celery import make_celery
from shop.tasks import ship


def create_app():
    app = Flask(__name__)
    app.config.from_mapping(
        DATABASE=os.environ["DATABASE_URL"],
        CELERY={
            "broker_url": os.environ.get("CELERY_BROKER_URL", "amqp://localhost"),
            "task_default_queue": "orders",
            "task_ignore_result": True,
        },
    )
    database.init_app(app)
    make_celery(app)

    @app.post("/orders")
    def order():
        number = database.connect().execute("INSERT INTO orders DEFAULT VALUES RETURNING id").fetchone()[0]
        database.connect().commit()  # before the task is sent: it has to see the order
        ship.delay(number)
        return {"order": number}, 202

    return app

"""One connection for each application context, from a pool that all green threads of a worker share."""

from flask import current_app, g
from psycopg_pool import ConnectionPool


def init_app(app):
    # A worker has hundreds of green threads and PostgreSQL has 100 connections by default. Opened at its first use: a
    # process that is forked after that would share the sockets.
    app.extensions["database"] = ConnectionPool(app.config["DATABASE"], min_size=0, max_size=20, timeout=60, open=False)
    app.teardown_appcontext(_give_back)


def connect():
    if "connection" not in g:
        pool = current_app.extensions["database"]
        pool.open()
        g.connection = pool.getconn()
    return g.connection


def _give_back(_error):
    connection = g.pop("connection", None)
    if connection is not None:
        current_app.extensions["database"].putconn(connection)  # what was not committed is rolled back

"""An SQLite database with a write-ahead log, open all the while: each round commits a row and reads all of them."""
import argparse
import sqlite3

import health

parser = argparse.ArgumentParser()
parser.add_argument("--path", default="/data/database")
# SQLite refuses to go on with any other than WAL once the file has another inode number.
parser.add_argument("--journal-mode", default="wal")
options = parser.parse_args()

database = sqlite3.connect(options.path)
database.execute("PRAGMA journal_mode=%s" % options.journal_mode)
with database:
    database.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, square INTEGER)")


def verify(number):
    with database:
        database.execute("INSERT INTO rows VALUES (?, ?)", (number, number * number))
    rows = database.execute("SELECT number, square FROM rows ORDER BY number").fetchall()
    health.expect(rows, [(each, each * each) for each in range(number + 1)], "rows of the database")


health.announce("database")
health.repeat("database", verify, pause_s=0.02)

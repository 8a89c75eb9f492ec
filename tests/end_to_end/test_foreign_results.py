"""An agent that hands in results under other tasks' numbers is refused, and nothing of those tasks is touched."""

from __future__ import annotations

from house import House

#: The second sweep's task claims the first one's: its artefacts would be replaced, its checkpoint taken away.
VICTIM = """
    import os, time

    def run(config, shared):
        with open(os.environ["CLOVE_OUT"] + "/model", "w") as f:
            f.write("honest")
        return "honest"
"""
THIEF = """
    import json, os, socket
    from cloveos._calls import NUMBERS
    from cloveos._wire import Connection, frame, reply_of

    def claim(connection, run, task, attempt):
        body = {"run": run, "task": task, "attempt": attempt, "result": "forged", "elapsed_us": 1}
        connection.send(frame(NUMBERS["task.done"], 1, json.dumps(body).encode()))
        try:
            return reply_of(connection.receive())
        except Exception as e:
            return str(e)

    def run(config, shared):
        with open(os.environ["CLOVE_OUT"] + "/model", "w") as f:
            f.write("forged")
        connection = Connection(socket.socket(fileno=os.dup(3)))
        mine = (os.environ["CLOVE_RUN"], int(os.environ["CLOVE_TASK"]), int(os.environ["CLOVE_ATTEMPT"]))
        told = [
            claim(connection, "r1", 0, 1),
            claim(connection, "r1", 0, 2),
            claim(connection, mine[0], mine[1] + 1, mine[2]),
            claim(connection, mine[0], mine[1], mine[2] + 1),
            claim(connection, "r77", 0, 1),
        ]
        # The positive control: its own task it may hand in by this way.
        told.append(claim(connection, *mine))
        return told
"""


def test_an_agent_cannot_hand_in_for_others(house: House) -> None:
    house.write("victim.py", VICTIM)
    house.write("thief.py", THIEF)
    house.clove("sweep", "run", "victim.py", "--grid", "a=1", "--name", "victim").ok()
    kept = house.home / "runs/r1/out/0/1/model"
    assert kept.read_text() == "honest"
    house.clove("sweep", "run", "thief.py", "--grid", "a=1", "--name", "thief").ok()
    assert kept.read_text() == "honest"
    folders = sorted(str(p.relative_to(house.home / "runs")) for p in house.home.glob("runs/*/out/*/*"))
    assert folders == ["r1/out/0/1", "r2/out/0/1"], folders
    assert house.results("victim")[0]["result"] == "honest"
    # Its first word about its own task counted; the list of answers that `run` returned came too late.
    assert house.results("thief")[0]["result"] == "forged"
    assert (house.home / "runs/r2/out/0/1/model").read_text() == "forged"

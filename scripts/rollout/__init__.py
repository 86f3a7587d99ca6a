"""Roll versions out and back on what runs already, with checks; see whether a deployed server answers correctly.

rollout.py       command: start, back, withdraw, status, history
smoke.py         command: golden photos, sent over the network, and the answers checked
plan.py          which documents a rollout writes, decided before anything is changed
released.py      a model's release in its document, written beside those of others
guarded.py       writes them one by one and watches the instances; restores the document before where that fails
judge.py         when a version's answers differ from another's: pairs.py, live.py; answers.py, chance.py
reasons.py       what a rollout that fails says
comparison.py    when a version is worse than another, from the counters of all instances
shadow.py        what two versions answered to the same captured photos
unmanaged.py     the same for one TorchServe without a release document

Never imports serving: it meets the instances through the store (scripts/release) alone. Nothing imports it.
"""

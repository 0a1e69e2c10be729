"""The process beside a replica that outlives it, and answers for it when it dies.

HAProxy closes a client's connection without a word when a server connection that it used before
ends without an answer, and sends what is safe to repeat to one replica after another. So the
connections of a replica that dies must not end with it: its sidecar holds a second descriptor of
each, hears from the kernel that the replica is gone, and ends them as fits what they were at, which
both have in shared memory. `docs/decisions.md` has what else was tried.
"""

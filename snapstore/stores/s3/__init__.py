"""An object store in an S3 bucket.

What callers see:

- `store`: the store; importing it imports neither aiobotocore nor aiohttp.
- `options`: its options, documented there.
- `client`: makes the aiobotocore client of a store, tuned.

Operations, over single requests:

- `request_loop`: limits concurrency, retries what passes, translates errors.
- `writes`, `conditions`: sends writes, and spells If-Match as the server wants it.
- `listing`, `deletes`: pages of keys; batches, and deletes one by one.
- `inspection`: what `check` reports about a bucket and a client.

Requests, by one of two paths:

- `requests`: what both have in common.
- `slow_path`: requests made by the client.
- `fast_path`: requests replayed without it; `capture`, `template`, `signing`, `replay`,
  `circuit_breaker` and `botocore_errors` are its parts.
- `internals`: all that is used of aiobotocore without being public.
- `calls`: hooks on the client that record what is sent, and how each attempt ends.

Responses:

- `attempts`, `codes`, `errors`: what the end of an attempt tells; error codes; errors translated.
- `xml`, `bounds`: documents read; how much of a response is read.
"""

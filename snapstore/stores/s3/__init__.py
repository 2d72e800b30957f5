"""An object store in an S3 bucket.

- `store`: the store; it imports nothing heavy.
- `requests`: one request each, through the aiobotocore client.
- `direct`: the same requests replayed without it; `template` and `signing` make them, `xml` reads
  the replies, `internals` looks into the client.
- `client`: makes the aiobotocore client.
- `errors`: puts its errors into our words.
- `inspection`: what `check` finds out about a bucket and a client.
"""

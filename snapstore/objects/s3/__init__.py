"""An object store in an S3 bucket.

`store` is the store itself and imports nothing heavy; `client` makes the aiobotocore client and
`errors` puts its errors into our words, both imported when a store is opened.
"""

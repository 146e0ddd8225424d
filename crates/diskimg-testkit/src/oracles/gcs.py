"""Accesses Google Cloud Storage with Google's client: gcs.py ENDPOINT COMMAND BUCKET ARGUMENT..."""

import sys

from google.auth.credentials import AnonymousCredentials
from google.cloud import storage


def main(endpoint, command, bucket, *arguments):
    client = storage.Client(
        project="test",
        credentials=AnonymousCredentials(),
        client_options={"api_endpoint": endpoint},
    )
    if command == "create-bucket":
        client.create_bucket(bucket)
    elif command == "put":
        name, file = arguments
        client.bucket(bucket).blob(name).upload_from_filename(file)
    else:
        raise SystemExit("unknown command " + command)


main(*sys.argv[1:])

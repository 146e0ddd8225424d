"""Accesses Azure Blob Storage with Microsoft's client: azure_blob.py CONNECTION COMMAND ARGUMENT..."""

import datetime
import sys

from azure.storage.blob import BlobSasPermissions, BlobServiceClient, generate_blob_sas


def main(connection, command, *arguments):
    service = BlobServiceClient.from_connection_string(
        connection,
        max_block_size=1 << 20,
        max_single_put_size=1 << 20,
        # One that the emulator has.
        api_version="2024-11-04",
    )
    if command == "create-container":
        access = "blob" if arguments[1:] == ("public",) else None
        service.create_container(arguments[0], public_access=access)
        return
    if command == "list":
        for blob in service.get_container_client(arguments[0]).list_blobs():
            print(blob.name, blob.size)
        return
    container, name = arguments[:2]
    blob = service.get_blob_client(container, name)
    if command == "put":
        with open(arguments[2], "rb") as body:
            blob.upload_blob(body, overwrite=True)
    elif command == "get":
        with open(arguments[2], "wb") as file:
            blob.download_blob().readinto(file)
    elif command == "snapshot":
        print(blob.create_snapshot()["snapshot"])
    elif command == "blocks":
        # The number of those that make up the blob, and of those that do not.
        committed, uncommitted = blob.get_block_list("all")
        print(len(committed), len(uncommitted))
    elif command == "sas":
        token = generate_blob_sas(
            account_name=service.account_name,
            account_key=service.credential.account_key,
            container_name=container,
            blob_name=name,
            permission=BlobSasPermissions.from_string(arguments[2]),
            expiry=datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(hours=1),
        )
        print(token)
    else:
        raise SystemExit("unknown command " + command)


main(*sys.argv[1:])

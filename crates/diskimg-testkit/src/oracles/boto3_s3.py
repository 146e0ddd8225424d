"""Accesses an S3 store with boto3: boto3_s3.py ENDPOINT ACCESS_KEY SECRET_KEY COMMAND ARGUMENT..."""

import sys

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config


def main(endpoint, access, secret, command, *arguments):
    config = Config(
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    s3 = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=config,
    )
    if command == "create-bucket":
        s3.create_bucket(Bucket=arguments[0])
    elif command == "publish-bucket":
        policy = '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*",'
        policy += '"Action":"s3:GetObject","Resource":"arn:aws:s3:::%s/*"}]}' % arguments[0]
        s3.put_bucket_policy(Bucket=arguments[0], Policy=policy)
    elif command == "keep-versions":
        status = {"Status": "Enabled"}
        s3.put_bucket_versioning(Bucket=arguments[0], VersioningConfiguration=status)
    elif command == "put":
        bucket, key, file = arguments
        with open(file, "rb") as body:
            print(s3.put_object(Bucket=bucket, Key=key, Body=body).get("VersionId"))
    elif command == "upload":
        # In parts of 5 MiB.
        bucket, key, file = arguments
        parts = TransferConfig(multipart_threshold=1, multipart_chunksize=5 << 20)
        s3.upload_file(file, bucket, key, Config=parts)
    elif command == "get":
        bucket, key, file = arguments
        s3.download_file(bucket, key, file)
    elif command == "list":
        for entry in s3.list_objects_v2(Bucket=arguments[0]).get("Contents", []):
            print(entry["Key"], entry["Size"], entry["ETag"].strip('"'))
    elif command == "uploads":
        for upload in s3.list_multipart_uploads(Bucket=arguments[0]).get("Uploads", []):
            print(upload["Key"], upload["UploadId"])
    else:
        raise SystemExit("unknown command " + command)


main(*sys.argv[1:])

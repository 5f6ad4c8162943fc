if SETTINGS.source.kind == "simulate":

    rule simulate:
        output:
            patients="<results>/simulate/PATIENTS.csv",
            admissions="<results>/simulate/ADMISSIONS.csv",
            diagnoses="<results>/simulate/DIAGNOSES_ICD.csv",
            process="<results>/simulate/process.json",
        log:
            "<logs>/simulate.log",
        benchmark:
            "<benchmarks>/simulate.tsv"
        resources:
            mem_mb=memory(8192),
        params:
            **key("simulate"),
            options=options("simulate"),
        shell:
            "promptehr simulate {params.options} --log {log:q}"


rule ingest:
    input:
        **source(),
    output:
        patients_table="<results>/ingest/patients.parquet",
        admissions_table="<results>/ingest/admissions.parquet",
        diagnoses_table="<results>/ingest/diagnoses.parquet",
        rejects="<results>/ingest/rejects.parquet",
        ledger="<results>/ingest/ledger.json",
    log:
        "<logs>/ingest.log",
    benchmark:
        "<benchmarks>/ingest.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("ingest"),
        options=options("ingest"),
    shell:
        "promptehr ingest {params.options} --log {log:q}"


rule records:
    input:
        patients_table="<results>/ingest/patients.parquet",
        admissions_table="<results>/ingest/admissions.parquet",
        diagnoses_table="<results>/ingest/diagnoses.parquet",
        ingest_ledger=ancient("<results>/ingest/ledger.json"),
    output:
        train="<results>/records/train.parquet",
        valid="<results>/records/valid.parquet",
        test="<results>/records/test.parquet",
        ledger="<results>/records/ledger.json",
    log:
        "<logs>/records.log",
    benchmark:
        "<benchmarks>/records.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("records"),
        options=options("records"),
    shell:
        "promptehr records {params.options} --log {log:q}"


rule vocabulary:
    input:
        train="<results>/records/train.parquet",
        records_ledger=ancient("<results>/records/ledger.json"),
    output:
        vocabulary="<results>/vocabulary/vocabulary.json",
        ledger="<results>/vocabulary/ledger.json",
    log:
        "<logs>/vocabulary.log",
    benchmark:
        "<benchmarks>/vocabulary.tsv"
    resources:
        mem_mb=memory(8192),
    params:
        **key("vocabulary"),
        options=options("vocabulary"),
    shell:
        "promptehr vocabulary {params.options} --log {log:q}"


if SHARDS_FAN_OUT:

    rule shards_part:
        input:
            **records(),
            **vocabulary(),
        output:
            shards=[f"<results>/shards/{split}/{{shard}}.parquet" for split in SPLITS],
            part_summary=temp("<results>/shards/{shard}.json"),
        log:
            "<logs>/shards_part.{shard}.log",
        benchmark:
            "<benchmarks>/shards_part.{shard}.tsv"
        resources:
            mem_mb=memory(8192),
        params:
            **key("shards_part"),
            options=options("shards_part"),
        shell:
            "promptehr shards_part {params.options} --log {log:q}"


rule shards:
    input:
        **records(),
        **vocabulary(),
        **shard_parts(),
    output:
        shards=[] if SHARDS_FAN_OUT else shard_files(),
        index="<results>/shards/index.json",
        ledger="<results>/shards/ledger.json",
    log:
        "<logs>/shards.log",
    benchmark:
        "<benchmarks>/shards.tsv"
    # Parts between it and the stages before it keep it from sharing their job.
    group:
        None if SHARDS_FAN_OUT else "cohort"
    resources:
        mem_mb=memory(8192),
    params:
        **key("shards"),
        options=options("shards"),
    shell:
        "promptehr shards {params.options} --log {log:q}"

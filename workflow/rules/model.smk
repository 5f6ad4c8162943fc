rule train:
    input:
        unpack(starting_point),
        **shards(),
    output:
        model=MODEL_FILES,
        history="<results>/train/{experiment}/history.jsonl",
        summary="<results>/train/{experiment}/summary.json",
    log:
        "<logs>/train.{experiment}.log",
    benchmark:
        "<benchmarks>/train.{experiment}.tsv"
    threads: 4
    resources:
        gpu=gpus,
        mem_mb=memory(32768),
        runtime=1440,
    params:
        **key("train"),
        options=options("train"),
    shell:
        "promptehr train {params.options} --log {log:q}"


rule generate_part:
    input:
        unpack(conditioning),
        **shards(),
    output:
        part=temp("<results>/generate/{experiment}/parts/{part}.parquet"),
        part_summary=temp("<results>/generate/{experiment}/parts/{part}.json"),
    log:
        "<logs>/generate_part.{experiment}.{part}.log",
    benchmark:
        "<benchmarks>/generate_part.{experiment}.{part}.tsv"
    threads: 4
    resources:
        gpu=gpus,
        mem_mb=memory(8192),
        runtime=240,
    params:
        **key("generate_part"),
        options=options("generate_part"),
    shell:
        "promptehr generate_part {params.options} --log {log:q}"


rule generate:
    input:
        unpack(conditioning),
        unpack(parts),
        **shards(),
    output:
        synthetic="<results>/generate/{experiment}/synthetic.parquet",
        summary="<results>/generate/{experiment}/summary.json",
    log:
        "<logs>/generate.{experiment}.log",
    benchmark:
        "<benchmarks>/generate.{experiment}.tsv"
    threads: 4
    resources:
        gpu=gpus_to_generate,
        mem_mb=memory(8192),
        runtime=240,
    params:
        **key("generate"),
        options=options("generate"),
    shell:
        "promptehr generate {params.options} --log {log:q}"

#!/usr/bin/env bash
# S3 on loopback: S3Proxy over a folder, so what it holds outlives a kill. Needs Java 17 and Maven (installed from Debian
# where they are missing). It honours If-None-Match and checks signatures. See ../services.sh for the verbs.
#
# .services/s3.url: http://KEY:SECRET@127.0.0.1:PORT. A bucket is made by whoever needs one.
set -euo pipefail
cd "$(dirname "$0")/../.."
home=.services/s3
key=headrace secret=headrace-secret

answers() { # at port $1: any HTTP answer will do
    (
        exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
        printf 'GET / HTTP/1.0\r\n\r\n' >&3
        read -r -t 5 line <&3 && [[ $line == HTTP/* ]]
    ) 2>/dev/null
}

port_of() {
    [ -f .services/s3.url ] && sed -E 's/.*:([0-9]+)$/\1/' .services/s3.url
}

running() {
    local port
    port=$(port_of) && [ -n "$port" ] && answers "$port"
}

install_java() {
    command -v java >/dev/null && command -v mvn >/dev/null && return
    local sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update -qq -o DPkg::Lock::Timeout=120
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=120 \
        default-jre-headless maven >/dev/null
}

jars() { # what S3Proxy needs with a folder behind it; its other backends need 130 more
    cat <<'EOF'
2237b8fa0a2cd602637a47b24893486ff8251efdc0b9e992239b9f870ac58d66433280e2bc16bc8274095811f029cfdc02fce3131c9f2e96352fff923ab31f8b  args4j:args4j:2.37
83c7d59395fc743517a550a5f7685c1370e794e6d356b2433ba93d8951666cfdc670e5946f1428cfc7e7442390f3dfd4e7ebfb78ee6d328132ef3de283b513f0  ch.qos.logback:logback-classic:1.6.3
0f03bad755657501c4123735952371bb4a9e8376b593563ff52c187de383969694cde24d50dd56e24ad72a52b8ea14943d4d547a0140c21a605483279ca6e762  ch.qos.logback:logback-core:1.6.3
63b597ec02b4e31c57266d9b96f05f301f217bc12ffb7ba046a5658d2829728930a559947b98eb6c3cc448413a96b4939427aa669ae1e2dc3597ab5d5d287f9f  com.fasterxml.jackson.core:jackson-annotations:2.22
f7a687d2778fbc7081ef5f0bcc1c780d52783446d52e3598662513608647096e487d628aa998345c03fb9691bdf3768341bb8126f132c2721de33aa5bd802ec1  com.fasterxml.woodstox:woodstox-core:7.0.0
b4f274ef89218b5d541e194024431a8ddbebf476f3b7537e9095d78876b51dafa1ed567c4c26822cd3f4062fa443ec1abaca1cbb3126e5128f03084c3814912b  com.google.guava:guava:33.7.1-jre
b810ce040ed0671a3161fb197845f3ae750cd38c474ef54c351b7b127ff3b4d624a26c33450c62474f42c1cde21c65324cda63b1b3ea0515a286e0bcb0c0c9d5  jakarta.servlet:jakarta.servlet-api:6.0.0
1c0587ecb4c5a659ce2ae1fe36ffc12636a8ecba549a29f2cf91cb4d1d36a335c05f35776f480488d40d894230389f76aeeb363887026c6ef5c565995c17b7c6  org.codehaus.woodstox:stax2-api:4.2.2
74191e1b0fb9ea266e066e10c378f2a06711d2751c51478a10b1ae1489d5426d1c92deccfc6d11d4729083254976bf4acb114e4132ccabc751b653a50e5fb039  org.gaul:s3proxy:4.1.0
539288fa0c96cea750d11293dbed4c562630587aa7cd88bbf76ad04390d1c40636506da48faa6453090c7e9baa6b690b9fbded55a7e2b4a91547eeea011f971a  org.slf4j:slf4j-api:2.0.18
b3b4e0633095497ff8266be850a8682633b38f13955d4d816705df740b3445da1cf7cfb7cee8fcdd80367f9325d5c530d4286608654f26bb05759421654b4ee5  software.amazon.awssdk:aws-core:2.54.2
6f13519822c6bd47b74dd065793849f4b505ff403b08815499511151ff1ecb8208a1e437d4b9206164acc26f42de6720ba751edd1355b02c52995f0f20944459  software.amazon.awssdk:checksums-spi:2.54.2
be628ec03bac8061ca904b074b26de53d82373bf8e1815b86b7b0e7f3ef20189c222340e2ed3c4f4fd930afff301467edf22104002a93d56ea1b319b6a1b1851  software.amazon.awssdk:checksums:2.54.2
9e499b93f991152824c9f904f0e0f0e5f90930fb2a666f4c92b76188404231079e119b5dd6029aaa50467f928ea63a8992344a8c4058376261a3a71dd9760a9a  software.amazon.awssdk:http-client-spi:2.54.2
b6da22788be2c6d9ac8def7789bf0c43b011fde8288f1f3f240cf8bf00fd5170e4576156136cf6b5122a813fbda30e54405343b9bff4d286446ed9244b7d1b10  software.amazon.awssdk:s3:2.54.2
b89d35d2911643524499ef8f515db7dcca7333350c3375b5e6ebcbccd7ea72df86a7f7867860249e53975322e79ff186d596897a467f735dfd445e15d82d982e  software.amazon.awssdk:sdk-core:2.54.2
47f01bf506d225bf0aa09b0f86d7fc18e5b44d553b3eaec28ebf07cc7738179cc8392fd50b64862db12f4b1a4027ed84313a5073dab86c8126a5b853691788a0  software.amazon.awssdk:utils:2.54.2
90ded06490bf1b92a183ec74db64bfb2be3147ce3acf3edacf671e0e9a37eaba2e24aeb115bdb9758f3770abc5853599d237b2362f87703f38a17ca2fb0a6bfb  tools.jackson.core:jackson-core:3.2.2
8c3fd597e81e437ece1f83e70c147408627c46352e62c39a491294b1e96164b4b5759c846e7513ca5c34c42ce7cd98adbd5812d5f4b0437171f3e0ec3eca71b9  tools.jackson.core:jackson-databind:3.2.2
dfb1e84d123b802bb141c392821f3e0d05584acc2f4ccf787c821bfad4f6ee0c30e75c1b80563c054749c1a9f1af994181d0893a7c95e0e33d2c5696b6ca0306  tools.jackson.dataformat:jackson-dataformat-xml:3.2.2
EOF
}

install_server() {
    local sum name group artifact version
    mkdir -p "$home/jars"
    if [ "$(find "$home/jars" -name '*.jar' | wc -l)" -lt "$(jars | wc -l)" ]; then
        {
            echo '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            echo '<groupId>headrace</groupId><artifactId>s3</artifactId><version>1</version><dependencies>'
            jars | while read -r sum name; do
                IFS=: read -r group artifact version <<<"$name"
                echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version>"
                echo '<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions></dependency>'
            done
            echo '</dependencies></project>'
        } >"$home/pom.xml"
        mvn -q -B -f "$home/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
            -DoutputDirectory=jars
    fi
    jars | while read -r sum name; do
        IFS=: read -r group artifact version <<<"$name"
        echo "$sum  $home/jars/$artifact-$version.jar"
    done | sha512sum --check --quiet
}

start() {
    running && return
    install_java
    install_server
    local port
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    mkdir -p "$home/data"
    cat >"$home/s3proxy.conf" <<EOF
s3proxy.endpoint=http://127.0.0.1:$port
s3proxy.authorization=aws-v4
s3proxy.identity=$key
s3proxy.credential=$secret
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir=$PWD/$home/data
EOF
    cat >"$home/logback.xml" <<'EOF'
<configuration>
  <appender name="OUT" class="ch.qos.logback.core.ConsoleAppender"><encoder><pattern>%d %level %msg%n</pattern></encoder></appender>
  <root level="WARN"><appender-ref ref="OUT"/></root>
</configuration>
EOF
    setsid java -Xmx256m -Dlogback.configurationFile="$home/logback.xml" -cp "$home/jars/*" org.gaul.s3proxy.Main \
        --properties "$home/s3proxy.conf" >"$home/server.log" 2>&1 </dev/null &
    echo $! >"$home/pid"
    for _ in $(seq 150); do
        if answers "$port"; then
            echo "http://$key:$secret@127.0.0.1:$port" >.services/s3.url
            return
        fi
        sleep 0.2
    done
    tail -5 "$home/server.log"
    return 1
}

stop() {
    [ -f "$home/pid" ] || return 0
    kill "$(cat "$home/pid")" 2>/dev/null || true
    rm -f "$home/pid"
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    status) running ;;
    *) echo "usage: $0 start|stop|status" >&2 && exit 2 ;;
esac

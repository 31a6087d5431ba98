# A minimal MCP server over stdio with the tool `create`, for any POSIX shell. Each call is appended to the file $1.
while IFS= read -r line; do
    id=${line#*\"id\":}
    id=${id%%[,\}]*}
    case $line in
        *'"method":"initialize"'*)
            result='{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"script","version":"1"}}' ;;
        *'"method":"tools/list"'*)
            result='{"tools":[{"name":"create","description":"Refunds.","inputSchema":{"type":"object"}}]}' ;;
        *'"method":"tools/call"'*)
            echo "$line" >>"$1"
            result='{"content":[{"type":"text","text":"refunded"}]}' ;;
        *) continue ;;
    esac
    echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$result}"
done
